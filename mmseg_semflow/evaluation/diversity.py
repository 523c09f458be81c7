"""How far the samples of one mask differ."""

from itertools import combinations
from statistics import fmean

from mmengine.registry import METRICS

from .base import SynthesisMetric


@METRICS.register_module()
class SampleDiversity(SynthesisMetric):
    """Compare the samples of a mask without a network, in 8-bit levels.

    ``diversity`` is the mean absolute difference between two samples, exactly
    0 if they are equal; ``brightness`` and ``gt_brightness`` are the mean
    levels of the samples and of the real images, which differ where the
    perturbation is not that of the training (SemFlow, Eq. 14 and Fig. 8).

    Args:
        **kwargs: See :class:`SynthesisMetric`.

    Raises:
        ValueError: If there is only one sample per mask.
    """

    figures = ('diversity', 'brightness', 'gt_brightness')

    def measure(self, sample: dict) -> dict:
        """Measure differences and brightness of the images of one mask."""
        samples = sample['samples'].float()
        if len(samples) < 2:
            raise ValueError(
                'SampleDiversity needs at least 2 samples per mask: set '
                f'num_samples in the synthesis settings, but got {len(samples)}')
        return dict(
            diversity=fmean((one - other).abs().mean().item()
                            for one, other in combinations(samples, 2)),
            brightness=samples.mean().item(),
            gt_brightness=sample['gt_img'].float().mean().item())
