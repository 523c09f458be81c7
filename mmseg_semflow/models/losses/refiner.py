"""The loss of what corrects predicted masks."""

from typing import TYPE_CHECKING, Dict, Optional, Sequence

from torch import Tensor

from mmseg_semflow.arguments import checked
from mmseg_semflow.registry import MODELS

from .cross_entropy import (
    check_class_weight,
    mean_cross_entropy,
    register_class_weight,
)
from .training_loss import TrainingLoss, TrainingStep

if TYPE_CHECKING:
    from ..semflow_model import SemFlowModel


@MODELS.register_module()
@checked
class RefinerLoss(TrainingLoss):
    """Cross-entropy of the scores of the model's refiner.

    Of the mask latent to which a step from t = 0 leads, without the decoder:
    the refiner learns what is right by itself, and the anchors' scores are
    added to that.

    Args:
        class_weight (Sequence[float], optional): Weight of each class. Defaults
            to None, equal weights.
        network_share (float): Share of the gradient that the network gets,
            which then predicts what the refiner can tell apart and not only
            the conditional mean of Eq. 10. Defaults to 0, none.
        name (str): Logged as ``loss_`` and this. Defaults to ``'refiner'``.
    """

    direction = 'image_to_mask'

    def __init__(self,
                 class_weight: Optional[Sequence[float]] = None,
                 network_share: float = 0.,
                 name: str = 'refiner') -> None:
        super().__init__()
        if network_share < 0:
            raise ValueError(
                f'network_share must be at least 0, but got {network_share}')
        self.network_share = network_share
        self.name = name
        register_class_weight(self, class_weight)

    def check_model(self, model: 'SemFlowModel') -> None:
        """See :meth:`TrainingLoss.check_model`; and that there is a refiner."""
        super().check_model(model)
        check_class_weight(self, model.codec.num_classes)
        if model.refiner is None:
            raise ValueError('RefinerLoss needs a refiner: set the one of the model, '
                             "for example refiner=dict(type='LatentRefiner', ...)")
        self.check_fraction(model, 'start')

    def forward(self, model: 'SemFlowModel',
                step: TrainingStep) -> Dict[str, Tensor]:
        """See :meth:`TrainingLoss.forward`."""
        at_start = self.part_at_start(model, len(step.z0))
        z1 = model.process.estimate(step.point, step.prediction, 'mask')[at_start]
        read = z1.detach()
        if self.network_share:
            read = read + self.network_share * (z1 - read)
        scores = model.refiner.scores(read, step.z0[at_start])
        stride = model.autoencoder.factor // model.refiner.detail
        labels = step.label_maps[at_start, stride // 2::stride, stride // 2::stride]
        return {
            f'loss_{self.name}': mean_cross_entropy(
                scores, labels, model.codec.ignore_index, self.class_weight)
        }
