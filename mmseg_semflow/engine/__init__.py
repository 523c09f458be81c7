"""Hooks, and what torch >= 2.6 and hosts without a GPU need."""

from .checkpoint import load_from_local
from .distributed import init_cpu_process_group
from .hooks import StopOnInvalidLossHook
from .optim_wrapper import BFloat16OptimWrapper

__all__ = [
    'BFloat16OptimWrapper', 'StopOnInvalidLossHook', 'init_cpu_process_group',
    'load_from_local'
]
