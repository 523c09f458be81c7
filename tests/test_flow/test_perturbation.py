import pytest
import torch

from mmseg_semflow.flow import perturb


def test_noise_is_uniform_within_the_amplitude():
    generator = torch.Generator().manual_seed(0)
    noise = perturb(torch.zeros(3, 300, 300), 6., generator)
    assert noise.dtype == torch.float32
    assert noise.abs().max() <= 6 and noise.abs().max() > 5.99
    assert noise.mean().abs() < 0.05
    # The variance of U(-beta, beta) is beta^2 / 3.
    assert noise.var().item() == pytest.approx(12, rel=0.02)


@pytest.mark.parametrize('size', [(21, 34), (4, 4), (3, 2)])
def test_a_grain_is_bilinear_between_its_corners(size):
    grain = 4
    noise = perturb(torch.zeros(2, 3, *size), 6., grain=grain)
    assert noise.shape == (2, 3, *size)
    assert noise.abs().max() <= 6 and (noise[0] != noise[1]).any()
    # Along both sides of a square values change by equal steps.
    for axis, side in ((2, size[0]), (3, size[1])):
        for first in range(0, side, grain):
            square = noise.narrow(axis, first, min(grain + 1, side - first))
            bend = square.diff(n=2, dim=axis)
            torch.testing.assert_close(bend, 0 * bend, rtol=0, atol=1e-5)


def test_corners_of_a_grain_are_uniform():
    noise = perturb(torch.zeros(3, 800, 800), 6., grain=8)
    corners = noise[:, ::8, ::8]
    assert corners.abs().max() > 5.99
    assert corners.var().item() == pytest.approx(12, rel=0.03)
    # Halfway between four of them their mean is.
    middle = noise[:, 4::8, 4::8]
    assert middle.var().item() == pytest.approx(12 / 4, rel=0.04)


def test_zero_amplitude_changes_nothing():
    levels = torch.randint(0, 256, (3, 4, 5), dtype=torch.uint8)
    assert torch.equal(perturb(levels, 0), levels.float())


def test_input_is_left_alone():
    levels = torch.full((3, 4, 5), 50.)
    moved = perturb(levels, 3.)
    assert (levels == 50).all() and not torch.equal(moved, levels)


def test_seed_decides():
    levels = torch.zeros(3, 4, 5)
    first, second, other = (
        perturb(levels, 6., torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_negative_amplitude():
    with pytest.raises(ValueError, match='>= 0, but got -1'):
        perturb(torch.zeros(3, 4, 5), -1)
