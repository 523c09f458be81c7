"""The objective of the process itself."""

from typing import TYPE_CHECKING, Dict, Sequence

import torch
from mmengine.dist import broadcast
from mmengine.registry import MODELS
from torch import Tensor, nn

from .training_loss import TrainingLoss, TrainingStep

if TYPE_CHECKING:
    from ..semflow_model import SemFlowModel


# Cells between those that are moved at once: what one shows ends before the next.
SPACING = 8
STEP = 0.3


@MODELS.register_module()
class MatchingLoss(TrainingLoss):
    r"""Mean squared error of the prediction to the process' target (Eq. 10).

    Logged as ``loss_`` and the name of the process' output: ``loss_flow``
    for SemFlow.

    With a ``decoder_share`` of s, which is not in the paper, the error e of a
    cell counts as

    .. math:: e^T \left((1 - s) I + s \, C \frac{G}{tr G}\right) e, \quad
        G = E[J^T J],

    with the decoder's Jacobian J with respect to a cell: what the decoder
    shows counts more than what it passes over, while any such form has its
    minimum where the plain one has, at the conditional mean. G is measured on
    the first batch and is a buffer.

    Args:
        ignore_void (bool): Whether void pixels count for nothing; a latent
            cell weighs as much as its share of pixels that are not void.
            False trains on the void colour like on any other, as the
            authors' released code does. Defaults to False.
        weight (float): Weight of the loss. Defaults to 1.
        decoder_share (float): Share s in [0, 1]. Defaults to 0, the paper.

    Raises:
        ValueError: If ``decoder_share`` is not in [0, 1].
    """

    def __init__(self,
                 ignore_void: bool = False,
                 weight: float = 1.,
                 decoder_share: float = 0.) -> None:
        super().__init__()
        if not 0 <= decoder_share <= 1:
            raise ValueError(
                f'decoder_share must be in [0, 1], but got {decoder_share}')
        self.ignore_void = ignore_void
        self.weight = weight
        self.decoder_share = decoder_share
        self._is_measured = not decoder_share

    def check_model(self, model: 'SemFlowModel') -> None:
        """See :meth:`TrainingLoss.check_model`; makes room for the root of G."""
        super().check_model(model)
        if self.decoder_share:
            channels = model.autoencoder.latent_channels
            self.register_buffer('root', torch.zeros(channels, channels))

    def forward(self, model: 'SemFlowModel',
                step: TrainingStep) -> Dict[str, Tensor]:
        """See :meth:`TrainingLoss.forward`; one for each output."""
        error = step.prediction - step.point.target
        names = model.process.outputs
        if not self._is_measured:
            # Once: to look into a buffer waits for a GPU. A checkpoint has it.
            if not self.root.any():
                self._measure(model, [step.z0, step.z1])
            self._is_measured = True
        losses = {}
        for name, part in zip(names, error.chunk(len(names), 1), strict=True):
            if self.decoder_share:
                # As exact as without.
                with torch.autocast(part.device.type, enabled=False):
                    part = nn.functional.conv2d(
                        part.float(), self.root[:, :, None, None])
            losses[f'loss_{name}'] = self.weight * self._mean(
                model, part.square(), step.label_maps)
        return losses

    @torch.no_grad()
    def _measure(self, model: 'SemFlowModel', latents: Sequence[Tensor]) -> None:
        """Find the symmetric root of the form above, the same on all ranks."""
        grams = [decoder_gram(model.autoencoder, z[:2]).double() for z in latents]
        gram = sum(gram / gram.trace() for gram in grams) / len(grams)
        channels = len(gram)
        form = self.decoder_share * channels * gram
        form += (1 - self.decoder_share) * torch.eye(channels, device=form.device)
        values, vectors = torch.linalg.eigh(form)
        root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
        self.root.copy_(root)
        broadcast(self.root)

    def _mean(self, model: 'SemFlowModel', error: Tensor,
              label_maps: Tensor) -> Tensor:
        if not self.ignore_void:
            return error.mean()
        valid = (label_maps != model.codec.ignore_index).float()
        weight = nn.functional.avg_pool2d(valid[:, None],
                                          model.autoencoder.factor)
        total = weight.sum().clamp(min=1e-6) * error.shape[1]
        return (weight * error).sum() / total


@torch.no_grad()
def decoder_gram(autoencoder: nn.Module, z: Tensor) -> Tensor:
    r"""Measure how much of a latent a decoder shows: :math:`E[J^T J]`.

    Cells 8 apart are moved by 0.3, one channel after the other.

    Args:
        autoencoder (nn.Module): A :class:`FrozenAutoencoder`.
        z (Tensor): Latents around which to measure, shape (B, C, h, w).

    Returns:
        Tensor: J^T J of the pixels of one cell, shape (C, C).
    """
    base = autoencoder.decode(z)
    rows, columns = (
        slice(min(SPACING, side) // 2, None, SPACING) for side in z.shape[-2:])
    cells = z[:, 0, rows, columns].numel()
    shown = []
    for channel in range(z.shape[1]):
        moved = z.clone()
        moved[:, channel, rows, columns] += STEP
        shown.append((autoencoder.decode(moved) - base).flatten() / STEP)
    jacobian = torch.stack(shown)
    return jacobian @ jacobian.T / cells
