import pytest
import torch
from mmengine.registry import MODELS

from tiny import network_cfg

KINDS = ('EndStdPreconditioning', 'MaskPreconditioning')


def build(end_std, kind='EndStdPreconditioning'):
    return MODELS.build(dict(type=kind, end_std=end_std))


def ends(std, count=400000):
    generator = torch.Generator().manual_seed(0)
    z0, z1 = torch.randn(2, count, 1, 1, 1, generator=generator)
    return std[0] * z0, std[1] * z1


class Recorder:
    """Stand for the network: keep the arguments, answer what is asked for."""

    def __init__(self, answer):
        self.answer = answer

    def __call__(self, z, t, condition=None):
        self.z, self.t, self.condition = z, t, condition
        return torch.full_like(z, self.answer)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('t', [0., 0.13, 0.5, 0.9, 1.])
def test_it_makes_a_unit_task_of_independent_ends(t, kind):
    """Input and target of the network: unit variance; of both ends uncorrelated."""
    std = (0.4, 1.1)
    z0, z1 = ends(std)
    times = torch.full((len(z0), ), t)
    zt, velocity = (1 - t) * z0 + t * z1, z1 - z0
    wrapper, network = build(std, kind), Recorder(0.)
    slope_part = wrapper(network, zt, times)
    assert network.z.std() == pytest.approx(1, abs=0.01)
    network.answer = 1.
    scale = wrapper(network, zt, times) - slope_part
    target = (velocity - slope_part) / scale
    assert target.std() == pytest.approx(1, abs=0.01)
    if kind == 'EndStdPreconditioning' or t == 1:
        assert (target * network.z).mean() == pytest.approx(0, abs=0.01)


def test_the_network_predicts_the_other_end():
    z0, z1 = torch.randn(2, 3, 4, 8, 8)
    wrapper = build((1 / 0.3, 1 / 0.3))
    for t, start, answer in ((0., z0, 0.3 * z1), (1., z1, -0.3 * z0)):
        found = wrapper(lambda *_, answer=answer: answer, start,
                        torch.full((3, ), t))
        torch.testing.assert_close(found, z1 - z0)


def test_of_masks_alone_the_network_predicts_the_velocity_at_the_image():
    z0, z1 = torch.randn(2, 3, 4, 8, 8)
    wrapper = build((0.3, 0.4), 'MaskPreconditioning')
    for t, start, answer in ((0., z0, (z1 - z0) / 0.5), (1., z1, -z0 / 0.3)):
        found = wrapper(lambda *_, answer=answer: answer, start,
                        torch.full((3, ), t))
        torch.testing.assert_close(found, z1 - z0)


@pytest.mark.parametrize('t', [0.2, 0.5, 0.8])
def test_what_is_taken_away_is_the_best_guess_of_the_mask(t):
    """The guess by least squares, of many samples."""
    std = (0.4, 1.1)
    z0, z1 = ends(std)
    zt = (1 - t) * z0 + t * z1
    guess = (z1 * zt).mean() / zt.square().mean()
    found = build(std, 'MaskPreconditioning')(
        Recorder(0.), torch.ones(1, 1, 1, 1), torch.full((1, ), t))
    assert found.item() == pytest.approx(guess.item(), abs=0.01)


@pytest.mark.parametrize('kind', KINDS)
def test_time_and_condition_are_passed_on(kind):
    network, t = Recorder(0.), torch.rand(2)
    condition = dict(prompt=torch.zeros(1))
    build((0.5, 1.), kind)(network, torch.zeros(2, 4, 8, 8), t, condition)
    assert network.t is t and network.condition is condition


def test_a_checkpoint_knows_its_preconditioning():
    cfg = dict(
        type='SemFlowModel',
        network=network_cfg(),
        autoencoder=dict(type='PatchAutoencoder', factor=2),
        codec=dict(num_classes=5))
    wrapped, other = (
        MODELS.build(dict(cfg, wrappers=[dict(type=kind, end_std=(0.5, 1))]))
        for kind in KINDS)
    keys = wrapped.state_dict().keys() - MODELS.build(cfg).state_dict().keys()
    assert keys == {'wrappers.0.end_std'}
    with pytest.raises(ValueError, match='another architecture: 2 keys differ'):
        other.load_state_dict(wrapped.state_dict(), strict=False)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('end_std', [(0., 1.), (1., ), (1., 1., 1.), (1., -1.)])
def test_bad_arguments(end_std, kind):
    with pytest.raises(ValueError, match='end_std must be two positive numbers'):
        build(end_std, kind)


@pytest.mark.parametrize('t', [0., 0.01, 0.5, 0.77, 1.])
def test_true_ends_are_the_true_velocity(t):
    z0, z1 = torch.randn(2, 3, 4, 8, 8)
    times = torch.full((3, ), t)
    found = MODELS.build(dict(type='CleanEnds'))(
        lambda *_: torch.cat([z0, z1], 1), (1 - t) * z0 + t * z1, times)
    torch.testing.assert_close(found, z1 - z0)


@pytest.mark.parametrize('t, of_image, of_mask', [
    (0., 0., 1.), (0.1, 0., 1 / 0.9), (0.25, 4., 0.), (0.5, 2., 0.), (1., 1., 0.)])
def test_errors_of_ends_have_no_pole(t, of_image, of_mask):
    """An error of an end moves the velocity by a bounded factor."""
    wrapper = MODELS.build(dict(type='CleanEnds', switch=0.25))
    zt, times = torch.randn(3, 4, 8, 8), torch.full((3, ), t)
    ends = torch.randn(2, 3, 4, 8, 8)
    exact = wrapper(lambda *_: torch.cat([*ends], 1), zt, times)
    for end, factor, sign in ((0, of_image, -1), (1, of_mask, 1)):
        wrong = ends.clone()
        wrong[end] += 1
        found = wrapper(lambda *_, ends=wrong: torch.cat([*ends], 1), zt, times)
        torch.testing.assert_close(
            found - exact, torch.full_like(zt, sign * factor),
            rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('num_steps', [1, 2, 5])
def test_synthesis_ends_at_the_clean_image(num_steps):
    """Whatever the state was, nothing of it is left."""
    wrapper = MODELS.build(dict(type='CleanEnds'))
    image, z = torch.randn(2, 3, 4, 8, 8)
    times = torch.linspace(1, 0, num_steps + 1)
    for t, following in zip(times[:-1], times[1:], strict=True):
        v = wrapper(lambda *_: torch.cat([image, 0 * image], 1), z, t.expand(3))
        z = z + (following - t) * v
    torch.testing.assert_close(z, image)


@pytest.mark.parametrize('switch', [0., 1., -0.1, float('nan')])
def test_a_switch_is_inside_the_path(switch):
    with pytest.raises(ValueError, match=f'switch must be in .*{switch}'):
        MODELS.build(dict(type='CleanEnds', switch=switch))


def test_a_model_of_both_ends_has_twice_the_channels():
    cfg = dict(
        type='SemFlowModel',
        network=network_cfg((1, 2)),
        autoencoder=dict(type='PatchAutoencoder', factor=2),
        codec=dict(num_classes=5))
    model = MODELS.build(dict(cfg, wrappers=[dict(type='CleanEnds')]))
    z = torch.randn(2, 12, 4, 6)
    assert model.velocity(z, torch.rand(2)).shape == z.shape
    with pytest.raises(ValueError, match='out_channels .* must be 12, but got 24'):
        MODELS.build(cfg)
    with pytest.raises(ValueError, match='out_channels .* must be 24, but got 12'):
        MODELS.build(
            dict(cfg, network=network_cfg(), wrappers=[dict(type='CleanEnds')]))
