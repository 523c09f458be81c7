"""Hooks of the training loop."""

from typing import Optional, Union

import torch
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class StopOnInvalidLossHook(Hook):
    """Stop training when the loss or the weights become NaN or infinite.

    The loss of every iteration counts, but it is looked at, together with
    the weights, only every ``interval`` iterations and before a checkpoint,
    so that the device need not be waited for in between. A checkpoint with
    such weights is therefore never written, and none is removed for it. A
    loss that is NaN on one rank alone spoils the weights of all of them.

    Args:
        interval (int): Iterations between looks. Defaults to 50.
    """

    priority = 'HIGH'

    def __init__(self, interval: int = 50) -> None:
        self.interval = interval
        self._valid: Union[torch.Tensor, bool] = True

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: Optional[dict] = None,
                         outputs: Optional[dict] = None) -> None:
        """Remember whether the loss was finite, and look now and then."""
        self._valid = torch.isfinite(outputs['loss'].detach()) & self._valid
        intervals = [self.interval] + [
            hook.interval for hook in runner.hooks
            if isinstance(hook, CheckpointHook) and not hook.by_epoch
        ]
        if self.is_last_train_iter(runner) or any(
                self.every_n_train_iters(runner, n) for n in intervals):
            self._check(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Look before a checkpoint that is written by epochs."""
        self._check(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Look before any other checkpoint."""
        self._check(runner)

    def _check(self, runner: Runner) -> None:
        weights = [p for p in runner.model.parameters() if p.requires_grad]
        finite = torch.stack([p.detach().isfinite().all() for p in weights])
        if not (self._valid and finite.all()):
            raise RuntimeError(
                'the loss or the weights became NaN or infinite within the '
                f'{self.interval} iterations up to {runner.iter + 1}: training '
                f'stops. The checkpoints in {runner.work_dir} were written '
                'before. Lower the learning rate or clip_grad, or train in '
                'float32')
