"""A backbone for mmsegmentation that starts from ImageNet without a download."""

from typing import Optional, Tuple

from torch import Tensor, nn

from mmseg_semflow.networks.features import (
    EfficientNetLiteFeatures,
    last_of_each_resolution,
)
from mmseg_semflow.registry import MODELS


@MODELS.register_module()
class EfficientNetLite(nn.Module):
    """An EfficientNet-Lite that trains, from ImageNet's weights.

    Pictures are RGB, (levels - 127) / 128, shape (B, 3, H, W). Features are those
    of the last block at strides of 4, 8, 16 and 32.

    Args:
        variant (int): Which of them, 0 to 4. Defaults to 0, with 24, 40, 112 and
            320 channels.
        weights (str, optional): Path of the file. Defaults to None, that of the
            package of :class:`EfficientNetLiteFeatures`, whose errors are those
            of this class.
    """

    def __init__(self, variant: int = 0, weights: Optional[str] = None) -> None:
        super().__init__()
        network = EfficientNetLiteFeatures(variant, weights).network
        self.stem = nn.Sequential(network._conv_stem, network._bn0, network._swish)
        self.blocks = network._blocks
        self.requires_grad_(True).train()

    def forward(self, pixels: Tensor) -> Tuple[Tensor, ...]:
        """Find the features of a batch of pictures."""
        return tuple(last_of_each_resolution(self.blocks, self.stem(pixels))[1:])
