"""The contract of all losses."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Dict, Optional

from torch import Tensor, nn

from ..processes import TrainingPoint

if TYPE_CHECKING:
    from ..semflow_model import SemFlowModel


@dataclass
class TrainingStep:
    """What a loss may look at.

    Attributes:
        z0 (Tensor): Image latents, shape (B, C, h, w).
        z1 (Tensor): Mask latents of the same shape.
        label_maps (Tensor): int64 labels, shape (B, H, W).
        point (TrainingPoint): Where the network was asked.
        prediction (Tensor): What it returned, shape (B, D', h, w).
    """

    z0: Tensor
    z1: Tensor
    label_maps: Tensor
    point: TrainingPoint
    prediction: Tensor


class TrainingLoss(nn.Module):
    """Base of what ``losses`` of a :class:`SemFlowModel` lists.

    Attributes:
        direction (str, optional): The direction that the process must serve.
    """

    direction: Optional[str] = None

    def check_model(self, model: 'SemFlowModel') -> None:
        """Raise a ValueError if it cannot be a loss of this model."""
        if self.direction is not None:
            model.process.check_direction(self.direction, type(self).__name__)

    def forward(self, model: 'SemFlowModel',
                step: TrainingStep) -> Dict[str, Tensor]:
        """Compute the loss.

        Args:
            model (SemFlowModel): Gives codec, autoencoder and process.
            step (TrainingStep): The batch and the prediction.

        Returns:
            Dict[str, Tensor]: float32 scalars, their names beginning with
            ``loss``.
        """
        raise NotImplementedError
