"""Clocks, memory, and statistics of ways that take turns."""

import time
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Optional

import cv2
import numpy as np
import torch
from mmengine.device import get_device
from mmengine.utils import track_iter_progress

from mmseg_semflow.apis.costs import PeakMemory
from mmseg_semflow.apis.tables import Row

Way = Callable[[], Any]
# By the name of the way, or whatever else tells it from the others.
Times = Dict[Any, List[float]]
CUDA = get_device() == 'cuda'


def now() -> float:
    """Read the clock, in seconds.

    On a GPU that of the wall, once the GPU has finished. On a CPU the time
    that this process spent computing, which other processes do not lengthen;
    with one thread it is the wall's time on an idle machine.
    """
    if CUDA:
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def seconds(way: Way) -> float:
    """Time one call."""
    start = now()
    way()
    return now() - start


def alternate(ways: Dict[Any, Way], repeats: int) -> Times:
    """Time functions in alternation.

    Every other round goes backwards, so that a drift of the machine's speed
    serves none of them. Call each once before, to warm up.

    Args:
        ways (Dict[Any, Callable]): The functions by name.
        repeats (int): Number of rounds.

    Returns:
        Dict[Any, List[float]]: Seconds, one per round.
    """
    times: Times = {name: [] for name in ways}
    for i in track_iter_progress(list(range(repeats))):
        time_round(ways, i, times)
    return times


def time_round(ways: Dict[Any, Way], number: int, times: Times) -> None:
    """Time each function once; see :func:`alternate`.

    Args:
        ways (Dict[Any, Callable]): The functions by name.
        number (int): Number of the round: odd ones go backwards.
        times (Dict[Any, List[float]]): Where the seconds are appended.
    """
    for name in list(ways)[::1 - 2 * (number % 2)]:
        times[name].append(seconds(ways[name]))


def median(values: List[float]) -> float:
    """Take the median, as a plain number."""
    return float(np.median(values))


def ratio(times: Times, of: Any, to: Any, meaning: str) -> Row:
    """Divide the times of two ways, round by round.

    Args:
        times (Dict[Any, List[float]]): See :func:`alternate`.
        of (Any): Name of the dividend.
        to (Any): Name of the divisor.
        meaning (str): What the ratio says.

    Returns:
        Row: The median of the ratios and their quartiles.
    """
    ratios = np.divide(times[of], times[to])
    lower, middle, upper = np.percentile(ratios, (25, 50, 75)).tolist()
    return dict(
        what=meaning,
        ratio=middle,
        lower_quartile=lower,
        upper_quartile=upper,
        rounds=len(ratios))


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch and OpenCV work in one thread, as workers of a loader do."""
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])


def peak_memory(way: Way) -> int:
    """Measure the bytes that a call needs at its worst moment.

    On a GPU all that is allocated, with weights and optimizer; on a CPU the
    tensors that the call makes, without what the kernels take inside.
    """
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
        way()
        return torch.cuda.max_memory_allocated()
    with PeakMemory() as counter:
        way()
    return counter.peak


def matmul_peak(dtype: torch.dtype, size: Optional[int] = None) -> float:
    """Measure the FLOP/s of the device, by the best of five large products.

    Args:
        dtype (torch.dtype): What to multiply in.
        size (int, optional): Side of the square matrices. Defaults to None,
            8192 on a GPU and 1024 on a CPU.
    """
    size = size or (8192 if CUDA else 1024)
    a, b = torch.randn(2, size, size, device=get_device(), dtype=dtype)
    torch.mm(a, b)
    return 2 * size**3 / min(seconds(lambda: torch.mm(a, b)) for _ in range(5))
