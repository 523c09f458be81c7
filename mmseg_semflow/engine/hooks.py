"""Hooks of the training loop."""

from typing import Optional, Union

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class StopOnInvalidLossHook(Hook):
    """Stop training when the loss is NaN or infinite.

    The loss of every iteration counts, but it is looked at only every
    ``interval`` iterations and before each checkpoint, so that the device
    need not be waited for in between. A checkpoint is therefore never
    written after a step that used such a loss.

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
        if self.every_n_train_iters(runner, self.interval):
            self._check(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Look before a checkpoint is written."""
        self._check(runner)

    def _check(self, runner: Runner) -> None:
        if not self._valid:
            raise RuntimeError(
                'the loss became NaN or infinite within the last '
                f'{self.interval} iterations before iteration '
                f'{runner.iter + 1}: training stops. The checkpoints in '
                f'{runner.work_dir} were written before. Lower the learning '
                'rate or clip_grad, or train in float32')
