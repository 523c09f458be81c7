"""Sharded training, where mmengine's strategy leaves something to do."""

from torch import Tensor, nn

from mmengine._strategy import FSDPStrategy
from mmengine.device import get_device
from mmengine.dist import is_distributed
from mmengine.optim import BaseOptimWrapper
from mmengine.registry import STRATEGIES


@STRATEGIES.register_module()
class PartialFSDPStrategy(FSDPStrategy):
    """mmengine's ``FSDPStrategy`` for a model that is trained in part.

    Modules that ``model_wrapper.ignored_modules`` names are neither sharded
    nor trained, but whole on every device. Gradients are clipped by their
    norm over all shards, and training resumes, where mmengine 0.10.7 clips
    every shard by its own norm and calls FSDP with the arguments of torch
    2.0. Works without a GPU too.

    Raises:
        ValueError: If the processes were not started by a launcher, or
            gradients are clipped by value.
    """

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        if not is_distributed():
            raise ValueError('FSDP shards a model among processes: start it '
                             'by tools/dist_train.sh CONFIG GPUS')
        for name in self.model_wrapper.get('ignored_modules', ()):
            model.get_submodule(name).to(get_device())
        if get_device() == 'cpu':
            self.model_wrapper.setdefault('device_id', 'cpu')
        return super()._wrap_model(model)

    def build_optim_wrapper(self, optim_wrapper, model=None) -> BaseOptimWrapper:
        """Build the wrapper, which clips by the norm over all shards."""
        wrapper = super().build_optim_wrapper(optim_wrapper, model)
        if wrapper.clip_grad_kwargs:
            if wrapper.grad_name != 'grad_norm':
                raise ValueError(
                    "clip_grad.type must be 'norm' with FSDP, but got 'value'")

            def clip(params: list, *args, **kwargs) -> Tensor:
                return model.clip_grad_norm_(*args, **kwargs)

            wrapper.clip_func = clip
        return wrapper

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Load the state of the whole optimizer into its shards."""
        self.optim_wrapper.load_state_dict(
            self.model.optim_state_dict_to_load(
                self.model, self.optim_wrapper.optimizer, state_dict))
