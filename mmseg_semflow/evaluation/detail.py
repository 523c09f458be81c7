"""How much detail samples have, beside the real pictures."""

from typing import Dict, List

import torch
from mmengine.registry import METRICS
from torch import Tensor

from .base import SynthesisMetric

# Octaves of spatial frequency, in cycles per pixel.
BANDS = dict(fine=(1 / 4, 1 / 2), middle=(1 / 8, 1 / 4), coarse=(1 / 16, 1 / 8))


@METRICS.register_module()
class DetailRatio(SynthesisMetric):
    r"""Divide the power of samples by that of the real pictures, by octave.

    ``detail_fine`` is that of the details of 2 to 4 pixels,
    ``detail_middle`` of 4 to 8 and ``detail_coarse`` of 8 to 16: 1 where samples
    are as detailed as real pictures, below where they are blurred, above where
    noise is left on them. The spectrum is that of the grey picture in a Hann
    window, averaged over all pictures.

    Args:
        **kwargs: See :class:`SynthesisMetric`.
    """

    figures = tuple(f'detail_{band}' for band in BANDS)

    def measure(self, sample: dict) -> dict:
        """Find the power of one real picture and of its samples."""
        return dict(
            real=_power(sample['gt_img'][None]).cpu(),
            fake=_power(sample['samples']).cpu())

    def summarize(self, measures: List[dict]) -> Dict[str, float]:
        """Divide the mean powers."""
        real, fake = (
            torch.stack([measure[key] for measure in measures]).mean(0)
            for key in ('real', 'fake'))
        return dict(zip(self.figures, (fake / real).tolist(), strict=True))


def _power(pictures: Tensor) -> Tensor:
    """Average the power of pictures (K, 3, H, W) in each band: (3, )."""
    grey = pictures.float().mean(1)
    grey = grey - grey.mean((1, 2), keepdim=True)
    height, width = grey.shape[-2:]
    window = [
        torch.hann_window(side, periodic=False, device=grey.device)
        for side in (height, width)
    ]
    spectrum = torch.fft.fft2(grey * window[0][:, None] * window[1])
    power = spectrum.abs().double().square().mean(0)
    rows, columns = (
        torch.fft.fftfreq(side, device=grey.device) for side in (height, width))
    frequency = (rows[:, None].square() + columns.square()).sqrt()
    return torch.stack([
        power[(low <= frequency) & (frequency < high)].sum()
        for low, high in BANDS.values()
    ])
