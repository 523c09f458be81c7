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

    def check_fraction(self, model: 'SemFlowModel', end: str,
                       otherwise: str = '') -> None:
        """Raise a ValueError if training has no samples at an end of the path.

        Args:
            model (SemFlowModel): The model.
            end (str): ``'start'``, t = 0, or ``'end'``, t = 1.
            otherwise (str): What else helps, for the error.
        """
        path = getattr(model.process, 'path', None)
        if not getattr(path, f'{end}_fraction', 0):
            raise ValueError(
                f'{type(self).__name__} looks at samples at t = '
                f'{int(end == "end")}, but {end}_fraction of the process is 0: '
                f'set it{otherwise}')

    @staticmethod
    def part_at_start(model: 'SemFlowModel', batch_size: int) -> slice:
        """Find the samples of a batch at t = 0, without asking the device.

        Args:
            model (SemFlowModel): One that passed :meth:`check_fraction`.
            batch_size (int): Number of samples B.

        Returns:
            slice: Of the batch.
        """
        return slice(model.process.path.num_at_start(batch_size))

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
