"""What mmsegmentation's MaskFormer needs besides: mmdet, and no operator of mmcv.

Configs name this module in ``custom_imports``; without it mmsegmentation says
no more than that an argument is unexpected.
"""

from typing import Any

from torch import Tensor, nn

from mmseg_semflow.extras import MissingExtraError
from mmseg_semflow.registry import MODELS

try:
    import mmdet  # noqa: F401
    from mmdet.models.losses import FocalLoss
except ImportError as error:
    raise MissingExtraError('MaskFormer', 'mmdet', 'comparison',
                            error) from error


@MODELS.register_module()
class OneHotFocalLoss(FocalLoss):
    """mmdet's focal loss by torch on a GPU too, as it is on a CPU.

    On a GPU mmdet takes an operator that mmcv has to be compiled for.
    """

    def forward(self, pred: Tensor, target: Tensor, *args: Any,
                **kwargs: Any) -> Tensor:
        """Compute the loss of logits (N, C); target (N, ) in [0, C], C is none."""
        if pred.dim() != target.dim():
            num_classes = pred.size(1)
            target = nn.functional.one_hot(target, num_classes + 1)[:, :num_classes]
        return super().forward(pred, target, *args, **kwargs)
