"""Functions of pictures that are larger than the network was trained on."""

from itertools import product
from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
from torch import Tensor

# What a network knows besides the state and the time, by name.
Condition = Optional[Dict[str, Tensor]]
Network = Callable[..., Tensor]


def check_tiling(window: Any,
                 stride: Any,
                 names: Tuple[str, str] = ('window', 'stride'),
                 factor: int = 1) -> None:
    """Raise a ValueError unless windows of such a distance cover everything.

    Args:
        window (Any): Height and width of a window.
        stride (Any): Distance of the windows.
        names (Tuple[str, str]): What both are called where they were set.
        factor (int): What all sides must be multiples of. Defaults to 1.
    """
    rule = ('both >= 1' if factor == 1 else
            f"both multiples of the autoencoder's factor {factor}")
    for name, sides in zip(names, (window, stride), strict=True):
        if not isinstance(sides, (tuple, list)) or len(sides) != 2 or any(
                side < 1 or side % factor for side in sides):
            raise ValueError(
                f'{name} must be (height, width), {rule}, but got {sides}')
    if any(s > w for s, w in zip(stride, window, strict=True)):
        raise ValueError(
            f'{names[1]}={tuple(stride)} must not exceed '
            f'{names[0].split(".")[-1]}={tuple(window)}: pixels would be left '
            'out')


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


def average_windows(function: Callable[[tuple], Tensor], x: Tensor,
                    window: Tuple[int, int],
                    stride: Tuple[int, int]) -> Tensor:
    """Apply a function to overlapping windows and average the results.

    Args:
        function (Callable): Maps a window, the index that cuts it out of x,
            to a tensor (B, D, h, w).
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
        result = function(part)
        if count is total:
            total = result.new_zeros(*result.shape[:2], *x.shape[-2:])
        total[part] += result
        count[part] += 1
    return total / count


def tile_network(network: Network, window: Tuple[int, int],
                 stride: Tuple[int, int]) -> Network:
    """Average a network over overlapping windows.

    MultiDiffusion (Bar-Tal et al., ICML 2023) for a flow: every step moves
    the whole state by the mean of the windows' velocities, so that windows
    agree along the path.

    Args:
        network (Callable): Maps the state z, (B, C, h, w), the flow time t,
            (B, ), and a condition to a prediction (B, D', h, w).
        window (Tuple[int, int]): Height and width of a window in cells.
        stride (Tuple[int, int]): Distance of the windows in cells, below
            ``window`` where they shall overlap.

    Returns:
        Callable: A network for states of any size; one that fits a window is
        passed on as it is. Of a condition, the tensors (B, K, h, w) of the
        size of the state are cropped with it, all others are passed on.

    Raises:
        ValueError: If a stride is below 1 or above its window.
    """
    check_tiling(window, stride)

    def tiled(z: Tensor, t: Tensor, condition: Condition = None) -> Tensor:
        sides = z.shape[-2:]
        if all(side <= w for side, w in zip(sides, window, strict=True)):
            return network(z, t, condition)

        def on_window(part: tuple) -> Tensor:
            cropped = condition and {
                key: value[part] if value.ndim == 4
                and value.shape[-2:] == sides else value
                for key, value in condition.items()
            }
            return network(z[part], t, cropped)

        return average_windows(on_window, z, window, stride)

    return tiled
