"""Fidelity of real images that went to their mask and back."""

from mmengine.registry import METRICS

from .base import SynthesisMetric


@METRICS.register_module()
class RoundTrip(SynthesisMetric):
    """Compute the PSNR of real images that the flow took there and back.

    ``round_trip_PSNR`` is that of what came back from the pseudo mask as the
    flow left it (SemFlow, Eq. 12, then 13), ``label_round_trip_PSNR`` that of
    what was synthesised for the labels found in it. Both are means over the images
    in dB; as elsewhere it is infinite for equal images, and then the mean too.

    Args:
        **kwargs: See :class:`SynthesisMetric`.

    Raises:
        ValueError: If the round trips were not made.
    """

    packages = ('torchmetrics', )
    figures = ('round_trip_PSNR', 'label_round_trip_PSNR')
    keys = (*SynthesisMetric.keys, 'round_trip_img', 'label_round_trip_img')

    def measure(self, sample: dict) -> dict:
        """Measure both round trips of one image."""
        from torchmetrics.functional.image import peak_signal_noise_ratio
        return {
            f'{key}_PSNR': peak_signal_noise_ratio(
                sample[f'{key}_img'],
                sample['gt_img'].to(sample[f'{key}_img'].device),
                data_range=255.).item()
            for key in ('round_trip', 'label_round_trip')
        }
