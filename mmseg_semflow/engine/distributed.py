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
    only looks whether there are enough of them.

    Raises:
        ValueError: If this host has GPUs, but fewer than processes.
    """
    launched = 'RANK' in os.environ and 'WORLD_SIZE' in os.environ
    # Workers of a data loader inherit the environment, but are no ranks.
    if not launched or multiprocessing.parent_process() is not None:
        return
    if torch.cuda.is_available():
        check_gpu_count(int(os.environ.get('LOCAL_WORLD_SIZE', 1)))
    elif not dist.is_initialized():
        dist.init_process_group('gloo')
        # Left to the interpreter, gloo's threads abort the process at times.
        atexit.register(_destroy_process_group)


def check_gpu_count(processes: int) -> None:
    """Raise a ValueError if this host has fewer GPUs than processes."""
    gpus = torch.cuda.device_count()
    if processes > gpus:
        raise ValueError(
            f'{processes} processes were asked for, but this host has '
            f'{gpus} GPUs (CUDA_VISIBLE_DEVICES='
            f'{os.environ.get("CUDA_VISIBLE_DEVICES", "is not set")}): every '
            'process needs one. Ask for fewer, and set optim_wrapper.'
            'accumulative_counts to keep the total batch')


def _destroy_process_group() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
