import pytest
import torch

from mmseg_semflow.flow import BrownianBridgePath, normal_like, seeded_generator

COUNT = 200_000


def ends():
    z0 = torch.full((COUNT, 1), 2.)
    return z0, torch.full((COUNT, 1), -1.)


def assert_marginal(z, t, variance, z0=2., z1=-1.):
    assert z.mean().item() == pytest.approx((1 - t) * z0 + t * z1, abs=0.015)
    assert z.var().item() == pytest.approx(variance, rel=0.02, abs=1e-6)


@pytest.mark.parametrize('t', [0., 0.1, 0.5, 0.9, 1.])
@pytest.mark.parametrize('max_variance', [0.5, 1.])
def test_marginals_of_the_bridge(t, max_variance):
    torch.manual_seed(0)
    path = BrownianBridgePath(max_variance)
    z = path.sample(*ends(), torch.full((COUNT, ), t))
    assert_marginal(z, t, 4 * max_variance * t * (1 - t))
    assert path.variance(torch.tensor(0.5)) == max_variance


@pytest.mark.parametrize('eta', [0., 0.5, 1.])
@pytest.mark.parametrize('m, n', [(0.99, 0.6), (0.6, 0.3), (0.3, 0.01)])
@pytest.mark.parametrize('to_mask', [False, True])
def test_a_step_leads_from_marginal_to_marginal(eta, m, n, to_mask):
    torch.manual_seed(0)
    path, (z0, z1) = BrownianBridgePath(), ends()
    t, next_t = (1 - m, 1 - n) if to_mask else (m, n)
    zt = path.sample(z0, z1, torch.full((COUNT, ), t))
    source, target = (z0, z1) if to_mask else (z1, z0)
    z = path.step(zt, source, target, torch.tensor(m), torch.tensor(n), eta)
    assert_marginal(z, next_t, 2 * next_t * (1 - next_t))


def test_the_first_step_draws_from_the_marginal_and_the_last_is_exact():
    torch.manual_seed(0)
    path, (z0, z1) = BrownianBridgePath(), ends()
    z = path.step(z1, z1, z0, torch.tensor(1.), torch.tensor(0.4))
    assert_marginal(z, 0.4, 2 * 0.4 * 0.6)
    z = path.step(z, z1, z0, torch.tensor(0.4), torch.tensor(0.))
    assert torch.equal(z, z0)


def test_a_step_without_noise_is_a_function():
    path, z = BrownianBridgePath(), torch.randn(3, 2)
    args = (z, z + 1, z - 1, torch.tensor(0.7), torch.tensor(0.2), 0.)
    assert torch.equal(path.step(*args), path.step(*args))


def test_variance_must_be_positive():
    with pytest.raises(ValueError, match='must be positive, but got 0'):
        BrownianBridgePath(0)


def test_noise_of_a_sample_is_its_own():
    contents = torch.arange(24, dtype=torch.uint8).view(3, 2, 4)

    def draw(indices, seed=0, number=0):
        generators = [
            seeded_generator(seed, number, contents[i]) for i in indices]
        return normal_like(torch.zeros(len(indices), 5), generators)

    together = draw([0, 1, 2])
    assert torch.equal(together.flip(0), draw([2, 1, 0]))
    for i in range(3):
        assert torch.equal(together[i], draw([i])[0])
    for other in (draw([0], seed=1), draw([0], number=1), draw([1])):
        assert not torch.equal(together[:1], other)
    reshaped = seeded_generator(0, 0, contents[0].view(4, 2))
    assert not torch.equal(together[0], torch.randn(5, generator=reshaped))


def test_one_generator_a_sample():
    generator = torch.Generator()
    with pytest.raises(ValueError, match='each of 2 samples, but got 1'):
        normal_like(torch.zeros(2, 3), [generator])
