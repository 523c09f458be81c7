"""Pixels and labels as tensors: small conversions that all rooms share."""

import math
from numbers import Integral
from typing import Sequence, Tuple

import torch
from torch import Tensor, nn


def resize_labels(label_map: Tensor, size: Tuple[int, int]) -> Tensor:
    """Resize labels (H, W) by nearest to (height, width)."""
    if tuple(label_map.shape) == tuple(size):
        return label_map
    return nn.functional.interpolate(
        label_map[None, None].float(), tuple(size),
        mode='nearest-exact')[0, 0].long()


def paint(label_map: Tensor, palette: Sequence[Sequence[int]]) -> Tensor:
    """Give every label its colour.

    Args:
        label_map (Tensor): Labels in [0, 255], shape (H, W).
        palette (Sequence[Sequence[int]]): RGB colours of the classes. All
            other labels are void and black.

    Returns:
        Tensor: RGB, uint8, shape (H, W, 3), on the CPU.
    """
    colours = torch.zeros(256, 3, dtype=torch.uint8)
    colours[:len(palette)] = torch.tensor(
        palette, dtype=torch.uint8).reshape(-1, 3)
    return colours[label_map.cpu().long()]


def entropy_map(logits: Tensor) -> Tensor:
    """Tell how undecided every pixel is between the classes.

    Args:
        logits (Tensor): Shape (num_classes, H, W), at least two classes.

    Returns:
        Tensor: Entropy of their softmax over that of equal probabilities, in [0, 1],
        float32, shape (H, W).
    """
    logs = logits.float().log_softmax(0)
    return -(logs.exp() * logs).sum(0) / math.log(len(logits))


def check_palette(palette: Sequence[Sequence[int]], name: str) -> None:
    """Raise a ValueError if a palette is no list of RGB colours, three levels each."""
    right = isinstance(palette, Sequence) and not isinstance(palette, str)
    for colour in palette if right else [palette]:
        if not right or not isinstance(colour, Sequence) or len(colour) != 3 or not all(
                isinstance(v, Integral) and not isinstance(v, bool) and 0 <= v <= 255
                for v in colour):
            raise ValueError(f'{name} must be a list of colours, three whole numbers '
                             f'in [0, 255] each, but it has {colour!r}')


def to_uint8(pixels: Tensor) -> Tensor:
    """Round pixels from [-1, 1] to 8-bit levels of the same shape."""
    return ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
