"""Cross-entropy of labels among which some are void."""

from typing import Optional, Sequence

import torch
from torch import Tensor, nn


def mean_cross_entropy(logits: Tensor,
                       label_maps: Tensor,
                       ignore_index: int,
                       class_weight: Optional[Tensor] = None) -> Tensor:
    """Average the cross-entropy over what is not void.

    Args:
        logits (Tensor): Shape (B, num_classes, H, W).
        label_maps (Tensor): int64 labels, shape (B, H, W).
        ignore_index (int): Label of void pixels.
        class_weight (Tensor, optional): Weight of each class, shape
            (num_classes, ). Defaults to None, equal weights.

    Returns:
        Tensor: Mean by the weights of the classes, a scalar; 0 if all are
        void.
    """
    loss = nn.functional.cross_entropy(
        logits,
        label_maps,
        weight=class_weight,
        ignore_index=ignore_index,
        reduction='sum')
    valid = label_maps != ignore_index
    weights = valid.float()
    if class_weight is not None:
        weights = class_weight[label_maps * valid] * valid
    return loss / weights.sum().clamp(min=1e-6)


def register_class_weight(loss: nn.Module,
                          class_weight: Optional[Sequence[float]]) -> None:
    """Make the weights of the classes a buffer that no checkpoint holds."""
    if class_weight is not None:
        class_weight = torch.tensor(class_weight, dtype=torch.float32)
    loss.register_buffer('class_weight', class_weight, persistent=False)


def check_class_weight(loss: nn.Module, num_classes: int) -> None:
    """Raise a ValueError if a loss has not one weight for each class."""
    weight = loss.class_weight
    if weight is not None and len(weight) != num_classes:
        raise ValueError(
            f'class_weight of {type(loss).__name__} must have num_classes='
            f'{num_classes} values, but got {len(weight)}')
