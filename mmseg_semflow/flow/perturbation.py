"""The finite perturbation of pseudo masks (SemFlow, Sec. 3.3)."""

from typing import Optional

import torch
from torch import Tensor

from .noise import between_corners


def perturb(pseudo_mask: Tensor,
            amplitude: float,
            generator: Optional[torch.Generator] = None,
            grain: int = 1) -> Tensor:
    r"""Add the finite perturbation to a pseudo mask.

    .. math:: M' = M + \epsilon, \quad \epsilon \sim U(-\beta, \beta)

    SemFlow (Wang et al., NeurIPS 2024), Eq. 14. Every value is moved
    independently. As long as the amplitude is below half of the spacing of
    the anchors, the nearest anchor of every pixel stays the same.

    With a ``grain`` above 1, which is not in the paper, only the values at the
    corners of squares of that many pixels are drawn, and those between are
    interpolated, so that they have the same bound: noise that a network can
    read, and that decides what regions and not what pixels look like.

    Args:
        pseudo_mask (Tensor): 8-bit levels in [0, 255], any shape and dtype;
            with a ``grain`` (..., H, W).
        amplitude (float): The half-width beta of the uniform noise, in 8-bit
            levels. 0 adds nothing.
        generator (torch.Generator, optional): Source of the noise, on the
            device of ``pseudo_mask``. Defaults to None, torch's global one.
        grain (int): Side of the squares in pixels. Defaults to 1, the paper.

    Returns:
        Tensor: float32 of the same shape, in [-amplitude, 255 + amplitude].

    Raises:
        ValueError: If ``amplitude`` is negative.
    """
    if amplitude < 0:
        raise ValueError(f'amplitude must be >= 0, but got {amplitude}')
    pseudo_mask = pseudo_mask.float()
    if amplitude == 0:
        return pseudo_mask
    if grain == 1:
        noise = torch.empty_like(pseudo_mask).uniform_(
            -amplitude, amplitude, generator=generator)
        return noise.add_(pseudo_mask)
    height, width = pseudo_mask.shape[-2:]
    squares = [-(-side // grain) for side in (height, width)]
    corners = pseudo_mask.new_empty(1, pseudo_mask[..., 0, 0].numel(),
                                    *(n + 1 for n in squares))
    corners.uniform_(-amplitude, amplitude, generator=generator)
    noise = between_corners(corners, grain, (height, width))
    return pseudo_mask + noise.reshape(pseudo_mask.shape)
