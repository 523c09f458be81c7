"""Mixed precision in training, on any device."""

from contextlib import contextmanager

import torch
from mmengine.device import get_device
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Run the forward pass of training under bfloat16 autocast.

    mmengine's ``AmpOptimWrapper`` refuses to work without a GPU; bfloat16
    needs no loss scaling, so that this one works everywhere.

    Args:
        **kwargs: Arguments of mmengine's ``OptimWrapper``.
    """

    @contextmanager
    def optim_context(self, model: nn.Module):
        """Add autocast to the context of the forward pass."""
        with super().optim_context(model), torch.autocast(
                get_device().split(':')[0], dtype=torch.bfloat16):
            yield
