"""Mixed precision in training, on hosts without a GPU too."""

from contextlib import contextmanager
from typing import Optional, Union

import torch
from mmengine.device import get_device
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn


def computes_in_bfloat16() -> bool:
    """Tell whether this CPU has instructions for bfloat16.

    Without them autocast is ten times slower than float32.
    """
    # An older torch does not tell: then float32 is the safe choice.
    known = getattr(torch.cpu, 'get_capabilities', dict)()
    return any(known.get(name) for name in ('avx512_bf16', 'amx_bf16'))


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(AmpOptimWrapper):
    """mmengine's ``AmpOptimWrapper``, which works without a GPU too.

    On a GPU it is mmengine's own. On a host without one it is bfloat16
    autocast, which needs no scaling of the loss, where the CPU has
    instructions for it, and float32 elsewhere.

    Args:
        loss_scale (str | float | dict): On a GPU as in mmengine; not used on
            a CPU. Defaults to 'dynamic'.
        dtype (str, optional): As in mmengine; on a CPU ``'bfloat16'``, or
            ``'float32'`` for no autocast at all. Defaults to None: mmengine's
            default, float16, on a GPU, and on a CPU what is fastest.
        use_fsdp (bool): As in mmengine; not used on a CPU. Defaults to False.
        **kwargs: Arguments of mmengine's ``OptimWrapper``.

    Raises:
        ValueError: If, on a CPU, ``dtype`` is another one.
    """

    def __init__(self,
                 loss_scale: Union[str, float, dict] = 'dynamic',
                 dtype: Optional[str] = None,
                 use_fsdp: bool = False,
                 **kwargs) -> None:
        self.on_cpu = get_device() == 'cpu'
        if not self.on_cpu:
            super().__init__(loss_scale, dtype, use_fsdp, **kwargs)
            return
        if dtype not in (None, 'bfloat16', 'float32'):
            raise ValueError('on the CPU, dtype of AutocastOptimWrapper must be '
                             f"'bfloat16' or 'float32', but got {dtype!r}")
        # Past mmengine's own, which refuses to work without a GPU.
        OptimWrapper.__init__(self, **kwargs)
        if dtype is None:
            dtype = 'bfloat16' if computes_in_bfloat16() else 'float32'
        self.enabled = dtype == 'bfloat16'
        self.cast_dtype = torch.bfloat16
        self.loss_scaler = torch.amp.GradScaler('cpu', enabled=False)
        self._scale_update_param = None

    @contextmanager
    def optim_context(self, model: nn.Module):
        """Add autocast to the context of the forward pass."""
        if not self.on_cpu:
            with super().optim_context(model):
                yield
            return
        with OptimWrapper.optim_context(self, model), torch.autocast(
                'cpu', dtype=torch.bfloat16, enabled=self.enabled):
            yield
