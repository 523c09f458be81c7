"""Networks averaged over windows."""

import pytest
import torch

from mmseg_semflow.flow import (
    check_tiling,
    integrate,
    tile_network,
    uniform_times,
    window_ends,
)


@pytest.mark.parametrize('size, window, stride, ends', [
    (10, 4, 3, [4, 7, 10]),
    (11, 4, 3, [4, 7, 10, 11]),
    (4, 4, 2, [4]),
    (3, 4, 2, [3]),
])
def test_windows_cover_the_side(size, window, stride, ends):
    assert window_ends(size, window, stride) == ends
    covered = set()
    for end in ends:
        covered |= set(range(max(end - window, 0), end))
    assert covered == set(range(size))


@pytest.mark.parametrize('solver', ['euler', 'heun', 'dopri5'])
@pytest.mark.parametrize('size', [(9, 13), (4, 6), (3, 20)])
def test_a_local_velocity_is_unchanged(size, solver):
    """Where windows do not matter, tiling changes nothing."""
    z = torch.randn(2, 3, *size, dtype=torch.float64)

    def velocity(z, t, condition=None):
        return torch.sin(z) * (1 + t.view(-1, 1, 1, 1))

    times = uniform_times(3, 1., 0.)
    expected = integrate(velocity, z, times, solver)
    found = integrate(
        tile_network(velocity, (4, 6), (2, 5)), z, times, solver)
    torch.testing.assert_close(found, expected)


def test_overlaps_are_averaged_at_every_step():
    """Two windows of a row, each moved by its own mean, by hand."""
    z = torch.arange(6.).view(1, 1, 1, 6)

    def velocity(z, t, condition=None):
        return z.mean(3, keepdim=True).expand_as(z)

    tiled = tile_network(velocity, (1, 4), (1, 2))
    for _ in range(2):
        left, right = z[..., :4].mean(), z[..., 2:].mean()
        both = (left + right) / 2
        expected = z + torch.stack([left, left, both, both, right, right])
        z = z + tiled(z, torch.zeros(1))
        torch.testing.assert_close(z, expected)


def local(z, t, condition):
    """A network without a field of view, which looks at all it is told."""
    where, scale = condition['where'], condition['scale']
    return (z * where + condition['layout'][:, :1]).sin() * scale.view(-1, 1, 1, 1)


@pytest.mark.parametrize('size', [(9, 13), (4, 6), (3, 20)])
def test_a_condition_of_the_size_of_the_state_is_cropped_along(size):
    z = torch.randn(2, 3, *size, dtype=torch.float64)
    condition = dict(
        where=torch.randn(1, 3, *size).double(),
        layout=torch.randn(2, 5, *size).double(),
        scale=torch.randn(2).double())
    tiled = tile_network(local, (4, 6), (2, 5))
    found = tiled(z, torch.rand(2), condition)
    torch.testing.assert_close(found, local(z, torch.rand(2), condition))


def test_conditions_of_other_sizes_are_passed_on():
    condition = dict(
        prompt=torch.randn(2, 7, 5),
        picture=torch.randn(2, 3, 8, 8),
        flat=torch.randn(6, 8),
        layout=torch.arange(48.).view(1, 1, 6, 8))
    seen = []

    def network(z, t, condition):
        assert torch.equal(condition['layout'], z[:1])
        seen.append(condition)
        return z

    z = condition['layout'].expand(2, -1, -1, -1)
    tile_network(network, (4, 4), (2, 4))(z, torch.rand(2), condition)
    assert len(seen) == 4
    for found in seen:
        assert found.keys() == condition.keys()
        assert all(found[k] is condition[k] for k in ('prompt', 'picture', 'flat'))


def test_a_state_of_one_window_goes_to_the_network_as_it_is():
    args = (torch.randn(1, 2, 4, 3), torch.rand(1), dict(a=torch.rand(1)))
    seen = []
    tile_network(lambda *x: seen.append(x), (4, 6), (2, 3))(*args)
    assert all(a is b for a, b in zip(args, seen[0], strict=True))


def test_gradients_pass_through_the_average():
    z = torch.randn(1, 2, 5, 7, dtype=torch.float64, requires_grad=True)
    layout = torch.randn_like(z, requires_grad=True)

    def network(z, t, condition):
        return (z * condition['layout']).sin() + z.mean()

    tiled = tile_network(network, (4, 4), (2, 3))
    assert torch.autograd.gradcheck(
        lambda z, layout: tiled(z, torch.rand(1), dict(layout=layout)),
        (z, layout))


@pytest.mark.parametrize('window, stride, message', [
    ((4, 4), (0, 1), r'^stride must be .*, both >= 1, but got \(0, 1\)'),
    ((4, 0), (1, 1), r'^window must be .*, both >= 1, but got \(4, 0\)'),
    ((4, ), (1, 1), r'^window must be \(height, width\), .* but got \(4,\)'),
    (4, (1, 1), r'^window must be \(height, width\), .* but got 4'),
    ((4, 4), (1, 5), r'^stride=\(1, 5\) must not exceed window=\(4, 4\)'),
])
def test_stride_must_fit_the_window(window, stride, message):
    with pytest.raises(ValueError, match=message):
        tile_network(None, window, stride)


def test_windows_are_called_as_where_they_were_set():
    names = ('test_cfg.crop_size', 'test_cfg.stride')
    check_tiling((8, 8), (4, 8), names, factor=4)
    with pytest.raises(ValueError, match="^test_cfg.crop_size must be .*, both "
                       "multiples of the autoencoder's factor 4, but got"):
        check_tiling((6, 8), (4, 8), names, factor=4)
    with pytest.raises(ValueError, match=r'^test_cfg.stride=\(8, 12\) must not '
                       r'exceed crop_size=\(8, 8\)'):
        check_tiling((8, 8), (8, 12), names, factor=4)
