"""Sharded training, where mmengine's strategy leaves something to do."""

from dataclasses import replace
from typing import Optional

from mmengine._strategy import FSDPStrategy
from mmengine.device import get_device
from mmengine.dist import is_distributed
from mmengine.optim import BaseOptimWrapper
from mmengine.registry import STRATEGIES
from torch import Tensor, nn


@STRATEGIES.register_module()
class PartialFSDPStrategy(FSDPStrategy):
    """mmengine's ``FSDPStrategy`` for a model that is trained in part.

    Modules that ``model_wrapper.ignored_modules`` names are neither sharded
    nor trained, but whole on every device. Checkpoints are those of a single
    process. Gradients are clipped by their norm over all shards, and training
    resumes, where mmengine 0.10.7 clips every shard by its own norm and calls
    FSDP with the arguments of torch 2.0. Works without a GPU too.

    Args:
        model_wrapper (dict): Config of ``MMFullyShardedDataParallel``.
        **kwargs: Further arguments of ``FSDPStrategy``.
    """

    def __init__(self, *, model_wrapper: dict, **kwargs) -> None:
        super().__init__(
            model_wrapper=model_wrapper, state_dict_cfg='full', **kwargs)

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        if not is_distributed():
            raise ValueError('FSDP shards a model among processes: start it '
                             'by tools/dist_train.sh CONFIG GPUS')
        for name in self.model_wrapper.get('ignored_modules', ()):
            model.get_submodule(name).to(get_device())
        if get_device() == 'cpu':
            self.model_wrapper.setdefault('device_id', 'cpu')
            # "Offloaded" from the CPU, weights would be freed before use.
            self.state_dict_config.offload_to_cpu = False
            self.optim_state_dict_config.offload_to_cpu = False
        return super()._wrap_model(model)

    def build_optim_wrapper(
            self,
            optim_wrapper: dict,
            model: Optional[nn.Module] = None) -> BaseOptimWrapper:
        """Build the wrapper, which clips by the norm over all shards.

        Raises:
            ValueError: If gradients are clipped by value.
        """
        if isinstance(optim_wrapper, dict) and optim_wrapper.get(
                'type') == 'AutocastOptimWrapper':
            # mmengine knows but the name of the class it is derived from.
            optim_wrapper = dict(optim_wrapper, use_fsdp=True)
        wrapper = super().build_optim_wrapper(optim_wrapper, model)
        if wrapper.clip_grad_kwargs:
            if wrapper.grad_name != 'grad_norm':
                raise ValueError(
                    "clip_grad.type must be 'norm' with FSDP, but got 'value'")

            def clip(params: list, *args, **kwargs) -> Tensor:
                return model.clip_grad_norm_(*args, **kwargs)

            wrapper.clip_func = clip
        return wrapper

    def load_model_state_dict(self, state_dict: dict, **kwargs) -> None:
        """Load whole weights, which the model compares on every rank."""
        config = replace(self.state_dict_config, rank0_only=False)
        with self.model.state_dict_type(self.model, self.state_dict_type,
                                        config, self.optim_state_dict_config):
            super().load_model_state_dict(state_dict, **kwargs)

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Load the state of the whole optimizer into its shards."""
        self.optim_wrapper.load_state_dict(
            self.model.optim_state_dict_to_load(
                self.model, self.optim_wrapper.optimizer, state_dict))
