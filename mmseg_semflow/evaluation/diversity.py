"""How far the samples of one mask differ, and what makes them differ."""

from itertools import combinations
from statistics import fmean
from typing import Dict, List

import torch
from mmengine.registry import METRICS
from torch import Tensor

from .base import SynthesisMetric

# Rows and columns of the places at which pictures are compared, and with how
# many others each.
PLACES = (24, 32)
NUM_OTHERS = 32
VOID = 255


@METRICS.register_module()
class SampleDiversity(SynthesisMetric):
    r"""Compare the samples of a mask without a network, in 8-bit levels.

    ``diversity`` is the mean absolute difference between two samples, exactly
    0 if they are equal; ``brightness`` and ``gt_brightness`` are the mean
    levels of the samples and of the real images, which differ where the
    perturbation is not that of the training (SemFlow, Eq. 14 and Fig. 8).

    ``relative_diversity`` is the part of the spread of real pictures that the
    samples have. With :math:`d_c` the mean difference of two samples of a mask
    where it has class c, :math:`r_c` that of two real pictures where both have
    class c, and :math:`w_c` the share of the class,

    .. math:: \sum_c w_c d_c / \sum_c w_c r_c

    on a grid of places, each picture beside the 32 that follow. It is left
    out where no two pictures of the set agree anywhere.

    Args:
        **kwargs: See :class:`SynthesisMetric`.

    Raises:
        ValueError: If there is only one sample per mask.
    """

    keys = (*SynthesisMetric.keys, 'gt_label_map')
    figures = ('diversity', 'brightness', 'gt_brightness', 'relative_diversity')

    def measure(self, sample: dict) -> dict:
        """Measure differences and brightness of the images of one mask."""
        samples = sample['samples'].float()
        if len(samples) < 2:
            raise ValueError(
                'SampleDiversity needs at least 2 samples per mask: set '
                f'num_samples in the synthesis settings, but got {len(samples)}')
        differences = torch.stack(
            [(one - other).abs().mean(0)
             for one, other in combinations(samples, 2)]).mean(0)
        return dict(
            diversity=differences.mean().item(),
            brightness=samples.mean().item(),
            gt_brightness=sample['gt_img'].float().mean().item(),
            labels=_at_places(sample['gt_label_map']).to(torch.uint8).cpu(),
            pixels=_at_places(sample['gt_img']).cpu(),
            differences=_at_places(differences).cpu())

    def summarize(self, measures: List[dict]) -> Dict[str, float]:
        """Average, and compare with the real pictures of the same labels."""
        found = {
            key: fmean(measure[key] for measure in measures)
            for key in ('diversity', 'brightness', 'gt_brightness')
        }
        labels = torch.stack([measure['labels'] for measure in measures])
        pixels = torch.stack([measure['pixels'] for measure in measures]).float()
        own = _by_class(
            labels, torch.stack([measure['differences'] for measure in measures]))
        real = torch.zeros_like(own)
        for shift in range(1, min(NUM_OTHERS + 1, len(measures))):
            others = labels[shift:]
            agree = torch.where(labels[:-shift] == others, others, VOID)
            real += _by_class(
                agree, (pixels[:-shift] - pixels[shift:]).abs().mean(1))
        known = (own[1] > 0) & (real[1] > 0)
        if known.any():
            share = own[1, known]
            spread = (share * real[0, known] / real[1, known]).sum()
            found['relative_diversity'] = (own[0, known].sum() / spread).item()
        return found


def _at_places(picture: Tensor) -> Tensor:
    rows, columns = (
        torch.linspace(0, side - 1, count).round().long()
        for side, count in zip(picture.shape[-2:], PLACES, strict=True))
    return picture[..., rows, :][..., columns]


def _by_class(labels: Tensor, values: Tensor) -> Tensor:
    """Sum values (N, h, w) by their labels, and count them: (2, 255)."""
    labels, values = labels.flatten().long(), values.flatten().double()
    return torch.stack([
        torch.bincount(labels, weights, minlength=VOID + 1)[:VOID]
        for weights in (values, torch.ones_like(values))
    ])


@METRICS.register_module()
class NoiseGain(SynthesisMetric):
    r"""Divide how far samples are apart by how far their starts were.

    .. math:: \frac{\sum |z_0 - z_0'|}{\sum |z_1 - z_1'|}

    over the latents of all pairs of samples of a mask and the perturbed,
    noisy mask latents that they were made of. Where it stays the same for any
    perturbation the flow carries noise through and decides nothing by it.

    Args:
        **kwargs: See :class:`SynthesisMetric`.

    Raises:
        ValueError: If spreads were not measured, or all samples started at
            the same state.
    """

    keys = (*SynthesisMetric.keys, 'sample_spread', 'start_spread')
    figures = ('noise_gain', )

    def measure(self, sample: dict) -> dict:
        """Take both spreads of one mask."""
        return {key: sample[key] for key in ('sample_spread', 'start_spread')}

    def summarize(self, measures: List[dict]) -> Dict[str, float]:
        """Divide the sums."""
        samples, starts = (
            sum(measure[key] for measure in measures)
            for key in ('sample_spread', 'start_spread'))
        if starts == 0:
            raise ValueError(
                'NoiseGain needs samples that start apart: the amplitude of the '
                'perturbation or mask_noise of the process must be > 0')
        return dict(noise_gain=samples / starts)
