"""Distance between images as people see it."""

from functools import partial
from itertools import combinations
from statistics import fmean
from typing import Any, Optional

from mmengine.registry import METRICS
from torch import Tensor

from mmseg_semflow.networks.features import LPIPS_TRUNKS, lpips_network

from .base import SynthesisMetric


@METRICS.register_module()
class PerceptualDistance(SynthesisMetric):
    """Compute LPIPS (Zhang et al. 2018), version 0.1; 0 for equal images.

    ``LPIPS`` is the mean distance of the samples to the real image. Where
    there are several samples per mask, ``LPIPS_diversity`` is the mean
    distance between two of them (Zhu et al. 2017). Where round trips were
    made, ``round_trip_LPIPS`` and ``label_round_trip_LPIPS`` are the mean
    distances of what came back, from the pseudo mask and from the labels, to
    the real image.

    Args:
        net (str): Trunk, ``'alex'`` or ``'vgg'``. Defaults to ``'alex'``.
        weights (str, optional): Path of torchvision's weights of the trunk.
            Defaults to None, the file of the published name in the folder of
            torch.hub.
        download (bool): Whether to download it to that folder, if it is not
            there. Defaults to False.
        **kwargs: See :class:`SynthesisMetric`.

    Raises:
        ValueError: If ``net`` is unknown, the weights are unreadable or of
            another network, or the images are too small for it.
    """

    packages = ('lpips', )
    figures = ('LPIPS', 'LPIPS_diversity', 'round_trip_LPIPS',
               'label_round_trip_LPIPS')

    def __init__(self,
                 net: str = 'alex',
                 weights: Optional[str] = None,
                 download: bool = False,
                 **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if net not in LPIPS_TRUNKS:
            raise ValueError(
                f'net must be one of {sorted(LPIPS_TRUNKS)}, but got {net!r}')
        self.net = net
        url, self.least = LPIPS_TRUNKS[net]
        self.basis = (f"distance to the real image, '_diversity' among the "
                      f'samples, by LPIPS 0.1, {net}')
        self.network = self.load_network(
            partial(lpips_network, net), url, weights, download)

    def measure(self, sample: dict) -> dict:
        """Measure the distances between the images of one mask."""
        samples = sample['samples']
        if min(samples.shape[-2:]) < self.least:
            raise ValueError(
                f'height and width must be >= {self.least} pixels for LPIPS '
                f'with net={self.net!r}, but got {tuple(samples.shape[-2:])}')
        network = self.network.to(samples.device)

        def distance(*images: Tensor) -> float:
            return network(*(
                image.to(samples.device)[None] / 127.5 - 1
                for image in images)).item()

        real = sample['gt_img']
        measured = dict(LPIPS=fmean(distance(image, real) for image in samples))
        if len(samples) > 1:
            measured['LPIPS_diversity'] = fmean(
                distance(*pair) for pair in combinations(samples, 2))
        for key in ('round_trip', 'label_round_trip'):
            if sample.get(f'{key}_img') is not None:
                measured[f'{key}_LPIPS'] = distance(sample[f'{key}_img'], real)
        return measured
