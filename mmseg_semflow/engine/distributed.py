"""Distributed training on hosts without a GPU."""

import atexit
import multiprocessing
import os

import torch
import torch.distributed as dist


def init_cpu_process_group() -> None:
    """Start a gloo process group if a launcher asks for one without a GPU.

    mmengine's ``init_dist`` selects a CUDA device in any case and fails on
    such a host; the runner skips it when a group exists. With a GPU this
    does nothing.
    """
    launched = 'RANK' in os.environ and 'WORLD_SIZE' in os.environ
    # Workers of a data loader inherit the environment, but are no ranks.
    launched = launched and multiprocessing.parent_process() is None
    if launched and not torch.cuda.is_available() and not dist.is_initialized():
        dist.init_process_group('gloo')
        # Left to the interpreter, gloo's threads abort the process at times.
        atexit.register(_destroy_process_group)


def _destroy_process_group() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
