"""Mixed precision in training, on hosts without a GPU too."""

from contextlib import contextmanager
from typing import Optional, Union

import torch
from mmengine.device import get_device
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn


def computes_in_bfloat16() -> bool:
    """Tell whether this CPU has instructions for bfloat16.

    Without them autocast is ten times slower than float32.
    """
    # An older torch does not tell: then float32 is the safe choice.
    known = getattr(torch.cpu, 'get_capabilities', dict)()
    return any(known.get(name) for name in ('avx512_bf16', 'amx_bf16'))


class CPUAmpOptimWrapper(OptimWrapper):
    """``AmpOptimWrapper`` for the CPU: bfloat16 autocast.

    mmengine's own refuses to work without a GPU. On such a host this one
    takes its name, so that configs and ``--amp`` work there as well.

    Args:
        loss_scale (str | float | dict): Not used, since bfloat16 needs no scaling.
            Defaults to 'dynamic'.
        dtype (str, optional): ``'bfloat16'``, or ``'float32'`` for no
            autocast at all. Defaults to None, bfloat16 where the CPU has
            instructions for it, else float32.
        use_fsdp (bool): Not used either; ``FSDPStrategy`` passes it. Defaults
            to False.
        **kwargs: Arguments of mmengine's ``OptimWrapper``.

    Raises:
        ValueError: If ``dtype`` is another one.
    """

    def __init__(self,
                 loss_scale: Union[str, float, dict] = 'dynamic',
                 dtype: Optional[str] = None,
                 use_fsdp: bool = False,
                 **kwargs) -> None:
        if dtype not in (None, 'bfloat16', 'float32'):
            raise ValueError('on the CPU, dtype of AmpOptimWrapper must be '
                             f"'bfloat16' or 'float32', but got {dtype!r}")
        super().__init__(**kwargs)
        if dtype is None:
            dtype = 'bfloat16' if computes_in_bfloat16() else 'float32'
        self.enabled = dtype == 'bfloat16'

    @contextmanager
    def optim_context(self, model: nn.Module):
        """Add autocast to the context of the forward pass."""
        with super().optim_context(model), torch.autocast(
                'cpu', dtype=torch.bfloat16, enabled=self.enabled):
            yield


if get_device() == 'cpu':
    OPTIM_WRAPPERS.register_module(
        name='AmpOptimWrapper', module=CPUAmpOptimWrapper, force=True)
