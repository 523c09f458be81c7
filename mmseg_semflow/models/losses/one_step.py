"""Losses on the pixels of what a single step predicts."""

from typing import TYPE_CHECKING, Dict, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

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
        start_only (bool): Whether samples at t = 0 alone count, where
            segmentation begins: with ``mask_noise`` of the process those of
            other times lead to noisy maps. Defaults to False.
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
                 start_only: bool = False,
                 name: str = 'one_step') -> None:
        super().__init__()
        if loss is not None and class_weight is not None:
            raise ValueError('class_weight belongs to the cross-entropy: set it '
                             f'in loss={loss}, but got {class_weight} beside it')
        self.name = name
        self.weight = weight
        self.scale = scale
        self.start_only = start_only
        self.loss = None if loss is None else MODELS.build(loss)
        register_class_weight(self, class_weight)

    def check_model(self, model: 'SemFlowModel') -> None:
        """See :meth:`TrainingLoss.check_model`; and the number of weights."""
        super().check_model(model)
        check_class_weight(self, model.codec.num_classes)
        if self.start_only:
            self.check_fraction(model, 'start', ', or start_only=False')

    def forward(self, model: 'SemFlowModel',
                step: TrainingStep) -> Dict[str, Tensor]:
        """See :meth:`TrainingLoss.forward`."""
        z1 = model.process.estimate(step.point, step.prediction, 'mask')
        label_maps = step.label_maps
        if self.start_only:
            at_start = self.part_at_start(model, len(z1))
            z1, label_maps = z1[at_start], label_maps[at_start]
        logits = self.logits(model, model.autoencoder.decode(z1))
        ignore_index = model.codec.ignore_index
        if self.loss is None:
            loss = mean_cross_entropy(logits, label_maps, ignore_index,
                                      self.class_weight)
        else:
            loss = self.loss(logits, label_maps, ignore_index=ignore_index)
        return {f'loss_{self.name}': self.weight * loss}

    def logits(self, model: 'SemFlowModel', pixels: Tensor) -> Tensor:
        """Score pixels (B, 3, H, W) by class, (B, num_classes, H, W)."""
        return self.scale * model.codec.logits(pixels)


@MODELS.register_module()
@checked
class AnchorRepulsionLoss(OneStepMapLoss):
    r"""Push the map of a single step away from the anchors of other classes.

    The cross-entropy of

    .. math:: p = \mathrm{softmax}(-\log(d + \epsilon) / \tau), \quad
        d_k = |x_1 - a_k|^2,

    whose gradient, :math:`(2 / \tau) \sum_k (y_k - p_k) (x_1 - a_k) /
    (d_k + \epsilon)`, FlowSeg (arXiv 2603.19218) subtracts from the target
    velocity: here of decoded pixels :math:`x_1` and the codec's anchors.

    Args:
        weight (float): Weight of the loss. Defaults to 0.1.
        temperature (float): tau. Defaults to 1.
        epsilon (float): In squares of the range [-1, 1]. Defaults to 0.01.
        start_only (bool): See :class:`OneStepMapLoss`. Defaults to False.
        name (str): See :class:`OneStepMapLoss`. Defaults to ``'repulsion'``.
    """

    def __init__(self,
                 weight: float = 0.1,
                 temperature: float = 1.,
                 epsilon: float = 0.01,
                 start_only: bool = False,
                 name: str = 'repulsion') -> None:
        super().__init__(weight, start_only=start_only, name=name)
        self.temperature = temperature
        self.epsilon = epsilon

    def logits(self, model: 'SemFlowModel', pixels: Tensor) -> Tensor:
        """See :meth:`OneStepMapLoss.logits`."""
        squares = pixels.square().sum(1, keepdim=True) - model.codec.logits(pixels)
        return -(squares.clamp(min=0) + self.epsilon).log() / self.temperature


@MODELS.register_module()
@checked
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
        last_fraction (float): Part of a batch, in (0, 1], that counts, so that
            others need not be decoded: its last samples, of which the last of
            all are at t = 1, where synthesis begins. So with the
            ``end_fraction`` of the process those alone, with more others
            besides. Defaults to 1, all.
        crop_size (Tuple[int, int], optional): Height and width, at most, of
            the part of every latent, in its cells and at a random place, that
            is decoded: a decoder is what this loss costs. Defaults to None,
            all.
        begin (int): Iteration of the runner with which it begins; before, it
            is 0 and costs nothing. Defaults to 0.
        name (str): See :class:`OneStepMapLoss`. Defaults to
            ``'one_step_image'``.

    Raises:
        ValueError: If ``crop_size`` is not two positive numbers, or
            ``last_fraction`` not in (0, 1].
    """

    direction = 'mask_to_image'

    def __init__(self,
                 weight: float = 0.1,
                 loss: Optional[dict] = None,
                 last_fraction: float = 1.,
                 crop_size: Optional[Tuple[int, int]] = None,
                 begin: int = 0,
                 name: str = 'one_step_image') -> None:
        super().__init__()
        if crop_size is not None and (len(crop_size) != 2 or min(crop_size) < 1):
            raise ValueError('crop_size of OneStepImageLoss must be two positive '
                             f'numbers of cells, but got {crop_size}')
        if not 0 < last_fraction <= 1:
            raise ValueError('last_fraction of OneStepImageLoss must be in (0, 1], '
                             f'but got {last_fraction}')
        self.last_fraction = last_fraction
        self.crop_size = crop_size
        self.begin = begin
        self.name = name
        self.weight = weight
        self.loss = nn.L1Loss() if loss is None else MODELS.build(loss)

    def forward(self, model: 'SemFlowModel',
                step: TrainingStep) -> Dict[str, Tensor]:
        """See :meth:`TrainingLoss.forward`."""
        first = len(step.z0) - round(self.last_fraction * len(step.z0))
        found = model.process.estimate(
            step.point, step.prediction, 'image')[first:]
        true = step.z0[first:]
        from mmengine.logging import MessageHub
        iteration = MessageHub.get_current_instance().get_info('iter', 0)
        if iteration < self.begin or not len(true):
            return {f'loss_{self.name}': 0 * step.prediction.sum()}
        if self.crop_size is not None:
            found, true = self._crop(torch.stack([found, true]))
        with torch.no_grad():
            images = model.autoencoder.decode(true)
        loss = self.loss(model.autoencoder.decode(found), images)
        return {f'loss_{self.name}': self.weight * loss}

    def _crop(self, latents: Tensor) -> Tensor:
        """Cut a random part of latents (..., C, h, w), drawn on the CPU."""
        for axis, part in zip((-2, -1), self.crop_size, strict=True):
            part = min(part, latents.shape[axis])
            first = int(torch.randint(latents.shape[axis] - part + 1, ()))
            latents = latents.narrow(axis, first, part)
        return latents
