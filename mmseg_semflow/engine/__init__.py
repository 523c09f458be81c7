"""Hooks, and what torch >= 2.6 and hosts without a GPU need."""

from .checkpoint import AtomicLocalBackend, load_from_local
from .checkpoint_hook import SafeCheckpointHook
from .distributed import init_cpu_process_group
from .hooks import StopOnInvalidLossHook
from .optim_wrapper import CPUAmpOptimWrapper
from .strategies import PartialFSDPStrategy
from .torchvision_ops import declare_torchvision_ops

__all__ = [
    'AtomicLocalBackend', 'CPUAmpOptimWrapper', 'PartialFSDPStrategy',
    'SafeCheckpointHook', 'StopOnInvalidLossHook', 'declare_torchvision_ops',
    'init_cpu_process_group', 'load_from_local'
]
