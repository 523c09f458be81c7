"""Distances between real and synthesised images under any features."""

from typing import Any, Dict, List, Optional

import torch
from mmengine.registry import METRICS, MODELS

from mmseg_semflow.extras import MissingExtraError

from .base import SynthesisMetric
from .inception import distances_of


@METRICS.register_module()
class FeatureDistance(SynthesisMetric):
    """Compute a Frechet and a kernel distance of features of any network.

    As :class:`InceptionDistance`, for hosts without Inception's weights: its
    figures compare with nothing but those of the same network, size and
    number of images. The features are the means over the deepest maps.

    Args:
        network (dict): Config of a :class:`FeatureNetwork`. Defaults to
            ``dict(type='EfficientNetLiteFeatures')``.
        subset_size (int, optional): Number of images in a subset of the
            kernel distance. Defaults to None, 100 or all of the smaller set.
        **kwargs: See :class:`SynthesisMetric`.

    Raises:
        ValueError: If ``subset_size`` is below 2 or above the number of
            images, or there are fewer than 2.
    """

    packages = ('torchmetrics', )
    figures = ('feature_FD', 'feature_KD', 'feature_KD_std')

    def __init__(self,
                 network: Optional[dict] = None,
                 subset_size: Optional[int] = None,
                 **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if subset_size is not None and subset_size < 2:
            raise ValueError(f'subset_size must be >= 2, but got {subset_size}')
        self.subset_size = subset_size
        if self.missing:
            return
        try:
            self.network = MODELS.build(
                network or dict(type='EfficientNetLiteFeatures'))
        except MissingExtraError as error:
            self.leave_out(str(error))
            return
        self.basis = (
            f'distances over subsets of {subset_size or "at most 100"}, features '
            f'of {self.network.basis}: not to be compared with FID or KID')

    def measure(self, sample: dict) -> dict:
        """Find the features of the real image and of the samples."""
        device = sample['samples'].device
        network = self.network.to(device)
        features = torch.stack([
            network(image.to(device)[None] / 127.5 - 1)[-1].mean((0, 2, 3))
            for image in (sample['gt_img'], *sample['samples'])
        ]).cpu()
        return dict(real=features[:1], fake=features[1:])

    def summarize(self, measures: List[dict]) -> Dict[str, float]:
        """Compute the distances between the two sets."""
        values = distances_of(measures, self.subset_size, 'subset_size')
        return dict(zip(self.figures, values, strict=True))
