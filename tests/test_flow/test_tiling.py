"""Velocities averaged over windows."""

import pytest
import torch

from mmseg_semflow.flow import (
    integrate,
    tile_velocity,
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

    def velocity(z, t):
        return torch.sin(z) * (1 + t.view(-1, 1, 1, 1))

    times = uniform_times(3, 1., 0.)
    expected = integrate(velocity, z, times, solver)
    found = integrate(
        tile_velocity(velocity, (4, 6), (2, 5)), z, times, solver)
    torch.testing.assert_close(found, expected)


def test_overlaps_are_averaged_at_every_step():
    """Two windows of a row, each moved by its own mean, by hand."""
    z = torch.arange(6.).view(1, 1, 1, 6)

    def velocity(z, t):
        return z.mean(3, keepdim=True).expand_as(z)

    tiled = tile_velocity(velocity, (1, 4), (1, 2))
    for _ in range(2):
        left, right = z[..., :4].mean(), z[..., 2:].mean()
        both = (left + right) / 2
        expected = z + torch.stack([left, left, both, both, right, right])
        z = z + tiled(z, torch.zeros(1))
        torch.testing.assert_close(z, expected)


@pytest.mark.parametrize('stride', [(0, 1), (1, 5)])
def test_stride_must_fit_the_window(stride):
    with pytest.raises(ValueError, match='stride must be at least 1 and at most'):
        tile_velocity(None, (4, 4), stride)
