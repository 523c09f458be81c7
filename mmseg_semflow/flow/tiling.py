"""Functions of pictures that are larger than the network was trained on."""

from itertools import product
from typing import Callable, List, Tuple

import torch
from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]


def window_ends(size: int, window: int, stride: int) -> List[int]:
    """List the ends of the windows that cover one side.

    Args:
        size (int): Length of the side.
        window (int): Length of a window; a shorter side gets one window.
        stride (int): Distance between windows, at most ``window``.

    Returns:
        List[int]: Ends, each at least ``min(window, size)``; the last is
        ``size``.
    """
    return [*range(window, size, stride), size]


def average_windows(function: Callable[[Tensor], Tensor], x: Tensor,
                    window: Tuple[int, int],
                    stride: Tuple[int, int]) -> Tensor:
    """Apply a function to overlapping windows and average the results.

    Args:
        function (Callable): Maps a window of x, (B, C, h, w), to a tensor
            (B, D, h, w).
        x (Tensor): Any pictures, shape (B, C, H, W).
        window (Tuple[int, int]): Height and width of a window.
        stride (Tuple[int, int]): Distance of the windows, at most ``window``.

    Returns:
        Tensor: Mean over the windows that cover each pixel, shape
        (B, D, H, W).
    """
    total = count = torch.zeros_like(x[:1, :1])
    for ends in product(*map(window_ends, x.shape[-2:], window, stride)):
        part = (..., *(slice(max(end - w, 0), end)
                       for end, w in zip(ends, window, strict=True)))
        result = function(x[part])
        if count is total:
            total = result.new_zeros(*result.shape[:2], *x.shape[-2:])
        total[part] += result
        count[part] += 1
    return total / count


def tile_velocity(velocity: Velocity, window: Tuple[int, int],
                  stride: Tuple[int, int]) -> Velocity:
    """Average a velocity over overlapping windows.

    MultiDiffusion (Bar-Tal et al., ICML 2023) for a flow: every step moves
    the whole state by the mean of the windows' velocities, so that windows
    agree along the path.

    Args:
        velocity (Callable): Maps the state z, (B, C, h, w), and the flow
            time t, (B, ), to a velocity (B, D, h, w).
        window (Tuple[int, int]): Height and width of a window in cells.
        stride (Tuple[int, int]): Distance of the windows in cells, below
            ``window`` where they shall overlap.

    Returns:
        Callable: A velocity for states of any size; one that fits a window
        is passed on as it is.

    Raises:
        ValueError: If a stride is below 1 or above its window.
    """
    if any(not 1 <= s <= w for s, w in zip(stride, window, strict=True)):
        raise ValueError('a tile stride must be at least 1 and at most its '
                         f'window, but got stride={tuple(stride)} for '
                         f'window={tuple(window)}')

    def tiled(z: Tensor, t: Tensor) -> Tensor:
        sides = z.shape[-2:]
        if all(side <= w for side, w in zip(sides, window, strict=True)):
            return velocity(z, t)
        return average_windows(lambda part: velocity(part, t), z, window, stride)

    return tiled
