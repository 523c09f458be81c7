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
