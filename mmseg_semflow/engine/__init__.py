"""Hooks, loops, optimizer wrappers and strategies, under names of their own."""

from .atomic_backend import AtomicLocalBackend
from .checkpoint_hook import SafeCheckpointHook
from .hooks import StopOnInvalidLossHook
from .optim_wrapper import AutocastOptimWrapper
from .strategies import PartialFSDPStrategy
from .synthesis_eval_hook import SynthesisEvalHook
from .train_loop import ResumableTrainLoop
from .visualizer import EntropyVisualizer

__all__ = [
    'AtomicLocalBackend', 'AutocastOptimWrapper', 'EntropyVisualizer',
    'PartialFSDPStrategy', 'ResumableTrainLoop', 'SafeCheckpointHook',
    'StopOnInvalidLossHook', 'SynthesisEvalHook'
]
