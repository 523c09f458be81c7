import warnings

import pytest
import torch

from mmseg_semflow.flow import RectifiedFlowPath, time_quantile, uniform_times


def latents():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 4, 3, 5, 6, generator=generator).unbind(0)


def test_ends_are_exact():
    z0, z1 = latents()
    path = RectifiedFlowPath()
    assert torch.equal(path.sample(z0, z1, torch.zeros(4)).zt, z0)
    assert torch.equal(path.sample(z0, z1, torch.ones(4)).zt, z1)


def test_velocity_is_the_derivative_of_the_path():
    z0, z1 = (z.double() for z in latents())
    path = RectifiedFlowPath()
    t = torch.rand(4, dtype=torch.float64)
    point, later = path.sample(z0, z1, t), path.sample(z0, z1, t + 1e-3)
    torch.testing.assert_close((later.zt - point.zt) / 1e-3, point.velocity)
    torch.testing.assert_close(
        point.zt + (1 - t).view(-1, 1, 1, 1) * point.velocity, z1)


@pytest.mark.parametrize('name, cdf', [
    ('uniform', lambda t: t),
    ('logit_normal',
     lambda t: torch.distributions.Normal(0., 1.).cdf(torch.logit(t))),
    ((2.5, 1), lambda t: t**2.5),
    ((1, 3), lambda t: 1 - (1 - t)**3),
    ([(2.5, 1), (1, 3)], lambda t: (t**2.5 + 1 - (1 - t)**3) / 2),
])
def test_time_follows_its_distribution(name, cdf):
    generator = torch.Generator().manual_seed(0)
    t = RectifiedFlowPath(name).sample_time(20000, generator=generator)
    assert t.dtype == torch.float32 and t.shape == (20000, )
    grid = torch.linspace(0.05, 0.95, 19)
    empirical = (t[None] <= grid[:, None]).float().mean(1)
    # The Kolmogorov bound at 20000 draws for a probability of 1e-6.
    assert (empirical - cdf(grid)).abs().max() < 0.0191


@pytest.mark.parametrize('density', ['uniform', 'logit_normal', (2.5, 1), (1, 2.5)])
@pytest.mark.parametrize('num_steps', [1, 2, 25, 1000])
@pytest.mark.parametrize('start', [0., 1.])
def test_grids_have_exact_ends(density, num_steps, start):
    times = time_quantile(density, uniform_times(num_steps, start, 1 - start))
    assert times[0] == start and times[-1] == 1 - start
    assert len(times) == num_steps + 1
    assert (times.diff().sign() == 1 - 2 * start).all()


def test_grids_are_dense_where_the_density_is():
    steps = {
        density: time_quantile(density, uniform_times(10, 0., 1.)).diff()
        for density in ('logit_normal', (2.5, 1), (1, 2.5))
    }
    # The density of Beta(1, b) falls all the way, by b (1 - t)^(b - 1).
    assert (steps[1, 2.5].diff() > 0).all() and (steps[2.5, 1].diff() < 0).all()
    torch.testing.assert_close(steps[1, 2.5], steps[2.5, 1].flip(0))
    assert steps['logit_normal'].argmax() in (0, 9)


@pytest.mark.parametrize('fraction, batch_size, expected', [
    (0., 8, 0), (0.5, 8, 4), (0.01, 8, 1), (0.95, 8, 8), (0.25, 1, 1)])
def test_a_part_of_the_batch_starts_at_zero(fraction, batch_size, expected):
    path = RectifiedFlowPath(start_fraction=fraction)
    t = path.sample_time(batch_size)
    assert path.num_at_start(batch_size) == expected
    assert (t[:expected] == 0).all() and (t[expected:] > 0).all()


@pytest.mark.parametrize('fraction, batch_size, told', [
    (0.5, 1, True), (0.95, 8, True), (0.375, 2, False), (0.99, 8, False)])
def test_a_batch_that_only_starts_is_told(fraction, batch_size, told):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        RectifiedFlowPath(start_fraction=fraction).sample_time(batch_size)
    assert [f'start_fraction={fraction} of a batch of {batch_size} is all of it'
            in str(warning.message) for warning in caught] == [True] * told


@pytest.mark.parametrize('start, end, batch_size, at_end', [
    (0., 0.5, 8, 4), (0.5, 0.25, 8, 2), (0.5, 0.5, 1, 0), (0.1, 0.01, 8, 1),
    (0.9, 0.1, 4, 0)])
def test_a_part_of_the_batch_starts_at_one(start, end, batch_size, at_end):
    path = RectifiedFlowPath(start_fraction=start, end_fraction=end)
    t = path.sample_time(batch_size)
    assert path.num_at_end(batch_size) == at_end == int((t == 1).sum())
    assert path.num_at_start(batch_size) == int((t == 0).sum())
    assert (t[batch_size - at_end:] == 1).all()


def test_bad_arguments():
    z0, z1 = latents()
    path = RectifiedFlowPath()
    with pytest.raises(ValueError, match="one of .* got 'cosine'"):
        RectifiedFlowPath('cosine')
    with pytest.raises(ValueError, match=r'in \[0, 1\), so .* got 1.5'):
        RectifiedFlowPath(start_fraction=1.5)
    with pytest.raises(ValueError, match='no end is left out, but got 1.0'):
        RectifiedFlowPath(end_fraction=1.)
    for density in ((2.5, 0), (2, 2), (1, ), (1, -1), [(1, 2), (2, 2)], ()):
        with pytest.raises(ValueError, match='two positive .* leaves out no end'):
            RectifiedFlowPath(density)
    with pytest.raises(ValueError, match='end_fraction must be .* got -1'):
        RectifiedFlowPath(end_fraction=-1)
    with pytest.raises(ValueError, match='exceed 1 together, but got 0.7 and 0.5'):
        RectifiedFlowPath(start_fraction=0.7, end_fraction=0.5)
    with pytest.raises(ValueError, match='same shape'):
        path.sample(z0, z1[:2], torch.zeros(4))
    with pytest.raises(ValueError, match=r't must have shape \(4,\)'):
        path.sample(z0, z1, torch.zeros(1))
