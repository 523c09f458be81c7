"""A small adversarial loss on the images that a single step predicts."""

from typing import TYPE_CHECKING, Dict, List

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrizations import spectral_norm

from mmseg_semflow.arguments import checked
from mmseg_semflow.registry import MODELS

from .training_loss import TrainingLoss, TrainingStep

if TYPE_CHECKING:
    from ..semflow_model import SemFlowModel


class _LatentDiscriminator(nn.Module):
    """Patches of image latents beside their mask's: two maps of scores."""

    def __init__(self, latent_channels: int, channels: int) -> None:
        super().__init__()
        self.fine = nn.Sequential(
            spectral_norm(nn.Conv2d(2 * latent_channels, channels, 3, padding=1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(channels, channels, 3, padding=1)),
            nn.LeakyReLU(0.2))
        self.coarse = nn.Sequential(
            spectral_norm(nn.Conv2d(channels, 2 * channels, 4, 2, 1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(2 * channels, 2 * channels, 3, padding=1)),
            nn.LeakyReLU(0.2))
        self.scores = nn.ModuleList([
            spectral_norm(nn.Conv2d(channels, 1, 1)),
            spectral_norm(nn.Conv2d(2 * channels, 1, 3, padding=1))
        ])

    def forward(self, z0: Tensor, z1: Tensor) -> List[Tensor]:
        fine = self.fine(torch.cat([z0, z1], 1))
        features = (fine, self.coarse(fine))
        return [
            score(feature)
            for score, feature in zip(self.scores, features, strict=True)
        ]


@MODELS.register_module()
@checked
class LatentAdversarialLoss(TrainingLoss):
    r"""Hinge losses of the image latent that a step predicts, and of its judge.

    At t = 1 the best answer to Eq. 10 is the mean of all pictures that fit,
    which is no picture. A discriminator D of image latents beside clean mask
    latents learns to tell true ones from the step's,

    .. math:: E[\max(0, 1 - D(z_0, z_1))] + E[\max(0, 1 + D(\hat z_0, z_1))]

    as ``loss_..._discriminator``, and the network gets
    :math:`-E[D(\hat z_0, z_1)]`, both as in SPADE (Park et al., CVPR 2019)
    but in latents, without the decoder. Both are learned by the one optimizer:
    ``paramwise_cfg`` can give the discriminator, ``semflow.losses``, a rate
    of its own. Not in the paper.

    Args:
        latent_channels (int): Number of channels of the latents.
        weight (float): Weight of both. Defaults to 0.05.
        channels (int): Width of the discriminator. Defaults to 96.
        end_only (bool): Whether samples at t = 1 alone count, where synthesis
            begins; else all that are not at t = 0. Defaults to True.
        name (str): Logged as ``loss_`` and this. Defaults to
            ``'adversarial'``.
    """

    direction = 'mask_to_image'

    def __init__(self,
                 latent_channels: int,
                 weight: float = 0.05,
                 channels: int = 96,
                 end_only: bool = True,
                 name: str = 'adversarial') -> None:
        super().__init__()
        self.latent_channels = latent_channels
        self.weight = weight
        self.end_only = end_only
        self.name = name
        self.discriminator = _LatentDiscriminator(latent_channels, channels)

    def check_model(self, model: 'SemFlowModel') -> None:
        """See :meth:`TrainingLoss.check_model`; and sizes and times."""
        super().check_model(model)
        wanted = model.autoencoder.latent_channels
        if self.latent_channels != wanted:
            raise ValueError(
                f'latent_channels of {type(self).__name__} must be that of the '
                f'model, {wanted}, but got {self.latent_channels}')
        if self.end_only:
            self.check_fraction(model, 'end', ', or end_only=False')

    def forward(self, model: 'SemFlowModel',
                step: TrainingStep) -> Dict[str, Tensor]:
        """See :meth:`TrainingLoss.forward`."""
        found = model.process.estimate(step.point, step.prediction, 'image')
        counted = step.point.t == 1 if self.end_only else step.point.t > 0
        counted = counted.float().view(-1, 1, 1, 1)
        real = self.discriminator(step.z0, step.z1)
        fake = self.discriminator(found.detach(), step.z1)
        frozen = {k: v.detach() for k, v in self.discriminator.named_parameters()}
        scores = functional_call(self.discriminator, frozen, (found, step.z1))
        own = sum(
            _mean(nn.functional.relu(1 - one) + nn.functional.relu(1 + other),
                  counted) for one, other in zip(real, fake, strict=True))
        return {
            f'loss_{self.name}': -self.weight * sum(
                _mean(score, counted) for score in scores),
            f'loss_{self.name}_discriminator': self.weight * own
        }


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    """Average values (B, 1, h, w) over the samples that count."""
    total = counted.sum().clamp(min=1) * values[0].numel()
    return (values * counted).sum() / total
