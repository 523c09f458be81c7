"""The objective of the process itself."""

from typing import TYPE_CHECKING, Dict

from torch import Tensor, nn

from mmseg_semflow.arguments import checked
from mmseg_semflow.registry import MODELS

from .training_loss import TrainingLoss, TrainingStep

if TYPE_CHECKING:
    from ..semflow_model import SemFlowModel


@MODELS.register_module()
@checked
class MatchingLoss(TrainingLoss):
    """Mean squared error of the prediction to the process' target (Eq. 10).

    Logged as ``loss_`` and the name of the process' output: ``loss_flow``
    for SemFlow.

    Args:
        ignore_void (bool): Whether void pixels count for nothing; a latent
            cell weighs as much as its share of pixels that are not void.
            False trains on the void colour like on any other, as the
            authors' released code does. Defaults to False.
        weight (float): Weight of the loss. Defaults to 1.
    """

    def __init__(self,
                 ignore_void: bool = False,
                 weight: float = 1.) -> None:
        super().__init__()
        self.ignore_void = ignore_void
        self.weight = weight

    def forward(self, model: 'SemFlowModel',
                step: TrainingStep) -> Dict[str, Tensor]:
        """See :meth:`TrainingLoss.forward`; one for each output."""
        error = step.prediction - step.point.target
        names = model.process.outputs
        losses = {}
        for name, part in zip(names, error.chunk(len(names), 1), strict=True):
            losses[f'loss_{name}'] = self.weight * self._mean(
                model, part.square(), step.label_maps)
        return losses

    def _mean(self, model: 'SemFlowModel', error: Tensor,
              label_maps: Tensor) -> Tensor:
        if not self.ignore_void:
            return error.mean()
        valid = (label_maps != model.codec.ignore_index).float()
        weight = nn.functional.avg_pool2d(valid[:, None],
                                          model.autoencoder.factor)
        total = weight.sum().clamp(min=1e-6) * error.shape[1]
        return (weight * error).sum() / total
