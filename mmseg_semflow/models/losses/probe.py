"""A loss of segmentation without the decoder."""

from typing import TYPE_CHECKING, Dict, Optional, Sequence

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.func import functional_call

from ..refiner import check_reader
from .cross_entropy import (
    check_class_weight,
    mean_cross_entropy,
    register_class_weight,
)
from .training_loss import TrainingLoss, TrainingStep

if TYPE_CHECKING:
    from ..semflow_model import SemFlowModel


@MODELS.register_module()
class ProbedMapLoss(TrainingLoss):
    r"""Cross-entropy of a probe on the mask latent that a step predicts.

    Like :class:`OneStepMapLoss`, but labels are read from the latent by a
    probe of two convolutions in place of the decoder and the nearest anchor,
    which in a deep autoencoder cost many times the network's own step. The
    probe is learned on the side, on the true mask latents, as
    ``loss_..._fit``; the network gets no gradient of that, and the probe none
    of the other. Inference does not need it. Not in the paper.

    Args:
        latent_channels (int): Number of channels of the latents.
        num_classes (int): Number of classes.
        weight (float): Weight of the loss. Defaults to 0.2.
        class_weight (Sequence[float], optional): Weight of each class in the
            network's cross-entropy. Defaults to None, equal weights.
        detail (int): Labels that the probe reads of a cell along each side; a
            divisor of the autoencoder's factor. Defaults to 2.
        channels (int): Channels between the convolutions. Defaults to 64.
        start_only (bool): Whether samples at t = 0 alone count, where the
            step of a segmentation begins. Defaults to True.
        name (str): Logged as ``loss_`` and this. Defaults to ``'probe'``.
    """

    direction = 'image_to_mask'

    def __init__(self,
                 latent_channels: int,
                 num_classes: int,
                 weight: float = 0.2,
                 class_weight: Optional[Sequence[float]] = None,
                 detail: int = 2,
                 channels: int = 64,
                 start_only: bool = True,
                 name: str = 'probe') -> None:
        super().__init__()
        self.weight = weight
        self.detail = detail
        self.start_only = start_only
        self.name = name
        self.latent_channels = latent_channels
        self.num_classes = num_classes
        register_class_weight(self, class_weight)
        self.probe = nn.Sequential(
            nn.Conv2d(latent_channels, channels, 3, padding=1), nn.SiLU(),
            nn.Conv2d(channels, num_classes * detail**2, 1),
            nn.PixelShuffle(detail))

    def check_model(self, model: 'SemFlowModel') -> None:
        """See :meth:`TrainingLoss.check_model`; and the sizes."""
        super().check_model(model)
        check_class_weight(self, model.codec.num_classes)
        check_reader(self, model.autoencoder, model.codec.num_classes)
        if self.start_only:
            self.check_fraction(model, 'start', ', or start_only=False')

    def forward(self, model: 'SemFlowModel',
                step: TrainingStep) -> Dict[str, Tensor]:
        """See :meth:`TrainingLoss.forward`."""
        z1 = model.process.estimate(step.point, step.prediction, 'mask')
        stride = model.autoencoder.factor // self.detail
        # The pixels in the middle of what the probe has one label for.
        labels = step.label_maps[:, stride // 2::stride, stride // 2::stride]
        ignore_index = model.codec.ignore_index
        fit = mean_cross_entropy(self.probe(step.z1), labels, ignore_index)
        frozen = {k: v.detach() for k, v in self.probe.named_parameters()}
        counted = labels
        if self.start_only:
            at_start = (step.point.t == 0).view(-1, 1, 1)
            counted = torch.where(at_start, labels, ignore_index)
        loss = mean_cross_entropy(
            functional_call(self.probe, frozen, (z1, )), counted, ignore_index,
            self.class_weight)
        return {
            f'loss_{self.name}': self.weight * loss,
            f'loss_{self.name}_fit': fit
        }
