"""The losses of a training, each a line of the config."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Dict, Optional, Sequence

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from .processes import TrainingPoint

if TYPE_CHECKING:
    from .semflow_model import SemFlowModel


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


@MODELS.register_module()
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

    def __init__(self, ignore_void: bool = False, weight: float = 1.) -> None:
        super().__init__()
        self.ignore_void = ignore_void
        self.weight = weight

    def forward(self, model: 'SemFlowModel',
                step: TrainingStep) -> Dict[str, Tensor]:
        """See :meth:`TrainingLoss.forward`; one for each output."""
        error = (step.prediction - step.point.target).square()
        names = model.process.outputs
        return {
            f'loss_{name}': self.weight * self._mean(model, part, step.label_maps)
            for name, part in zip(
                names, error.chunk(len(names), 1), strict=True)
        }

    def _mean(self, model: 'SemFlowModel', error: Tensor,
              label_maps: Tensor) -> Tensor:
        if not self.ignore_void:
            return error.mean()
        valid = (label_maps != model.codec.ignore_index).float()
        weight = nn.functional.avg_pool2d(valid[:, None],
                                          model.autoencoder.factor)
        total = weight.sum().clamp(min=1e-6) * error.shape[1]
        return (weight * error).sum() / total


@MODELS.register_module()
class OneStepMapLoss(TrainingLoss):
    r"""A loss of segmentation on the map that a single step predicts.

    The mask latent that the prediction at any t leads to, for SemFlow
    :math:`z_t + (1 - t) v_\theta(z_t, t)`, is decoded, scored by the codec,
    and compared with the labels. Not in the paper: it teaches the network
    which errors of the velocity change a label. With a ``start_fraction`` of
    the process it weighs the map of a single step more.

    Args:
        weight (float): Weight of the loss. Defaults to 0.1.
        scale (float): Factor of the codec's logits. Defaults to 4.
        class_weight (Sequence[float], optional): Weight of each class in the
            cross-entropy. Defaults to None, equal weights.
        loss (dict, optional): Config of another loss in place of the
            cross-entropy, called as those of mmsegmentation: with logits
            (B, num_classes, H, W), labels (B, H, W) and ``ignore_index``, for
            example ``dict(type='mmseg.DiceLoss')``. Defaults to None.
        name (str): Logged as ``loss_`` and this, for several of its kind.
            Defaults to ``'one_step'``.

    Raises:
        ValueError: If both ``loss`` and ``class_weight`` are given.
    """

    direction = 'image_to_mask'

    def __init__(self,
                 weight: float = 0.1,
                 scale: float = 4.,
                 class_weight: Optional[Sequence[float]] = None,
                 loss: Optional[dict] = None,
                 name: str = 'one_step') -> None:
        super().__init__()
        if loss is not None and class_weight is not None:
            raise ValueError('class_weight belongs to the cross-entropy: set it '
                             f'in loss={loss}, but got {class_weight} beside it')
        self.name = name
        self.weight = weight
        self.scale = scale
        self.loss = None if loss is None else MODELS.build(loss)
        self.register_buffer(
            'class_weight',
            None if class_weight is None else torch.tensor(
                class_weight, dtype=torch.float32),
            persistent=False)

    def check_model(self, model: 'SemFlowModel') -> None:
        """See :meth:`TrainingLoss.check_model`; and the number of weights."""
        super().check_model(model)
        weight, num_classes = self.class_weight, model.codec.num_classes
        if weight is not None and len(weight) != num_classes:
            raise ValueError(
                f'class_weight of OneStepMapLoss must have num_classes='
                f'{num_classes} values, but got {len(weight)}')

    def forward(self, model: 'SemFlowModel',
                step: TrainingStep) -> Dict[str, Tensor]:
        """See :meth:`TrainingLoss.forward`."""
        z1 = model.process.estimate(step.point, step.prediction, 'mask')
        logits = self.scale * model.codec.logits(model.autoencoder.decode(z1))
        ignore_index = model.codec.ignore_index
        criterion = self.cross_entropy if self.loss is None else self.loss
        loss = criterion(logits, step.label_maps, ignore_index=ignore_index)
        return {f'loss_{self.name}': self.weight * loss}

    def cross_entropy(self, logits: Tensor, label_map: Tensor,
                      ignore_index: int) -> Tensor:
        """Average the cross-entropy over what is not void.

        Args:
            logits (Tensor): Shape (B, num_classes, H, W).
            label_map (Tensor): int64 labels, shape (B, H, W).
            ignore_index (int): Label of void pixels.

        Returns:
            Tensor: Mean by the weights of the classes, a scalar; 0 if all are
            void.
        """
        loss = nn.functional.cross_entropy(
            logits,
            label_map,
            weight=self.class_weight,
            ignore_index=ignore_index,
            reduction='sum')
        valid = label_map != ignore_index
        weights = valid.float()
        if self.class_weight is not None:
            weights = self.class_weight[label_map * valid] * valid
        return loss / weights.sum().clamp(min=1e-6)


@MODELS.register_module()
class OneStepImageLoss(TrainingLoss):
    r"""A loss of pictures on the image that a single step predicts.

    The image latent that the prediction at any t leads to, for SemFlow
    :math:`z_t - t v_\theta(z_t, t)`, is decoded and compared with the image
    as the autoencoder has it. Not in the paper.

    Args:
        weight (float): Weight of the loss. Defaults to 0.1.
        loss (dict, optional): Config of a loss that is called with two
            batches of pictures in [-1, 1], RGB, shape (B, 3, H, W). Defaults
            to None, the mean absolute difference.
        name (str): See :class:`OneStepMapLoss`. Defaults to
            ``'one_step_image'``.
    """

    direction = 'mask_to_image'

    def __init__(self,
                 weight: float = 0.1,
                 loss: Optional[dict] = None,
                 name: str = 'one_step_image') -> None:
        super().__init__()
        self.name = name
        self.weight = weight
        self.loss = nn.L1Loss() if loss is None else MODELS.build(loss)

    def forward(self, model: 'SemFlowModel',
                step: TrainingStep) -> Dict[str, Tensor]:
        """See :meth:`TrainingLoss.forward`."""
        z0 = model.process.estimate(step.point, step.prediction, 'image')
        with torch.no_grad():
            images = model.autoencoder.decode(step.z0)
        loss = self.loss(model.autoencoder.decode(z0), images)
        return {f'loss_{self.name}': self.weight * loss}
