"""SemFlow itself: one flow between images and masks, in both directions."""

from typing import Dict, Optional, Sequence

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmseg_semflow.flow import Generators, RectifiedFlowPath, integrate

from .pair_model import Network, PairModel


class OneStepLoss(nn.Module):
    r"""Cross-entropy of the map that one Euler step predicts.

    The step from any t to the mask, :math:`z_t + (1 - t) v_\theta(z_t, t)`,
    is decoded, classified by the codec, and compared with the labels. Not in
    the paper: it teaches the network which errors of the velocity change a
    label. With a ``start_fraction`` of the model it weighs the map of a
    single step more.

    Args:
        weight (float): Weight of the loss. Defaults to 0.1.
        scale (float): Factor of the codec's logits. Defaults to 4.
        class_weight (Sequence[float], optional): Weight of each class.
            Defaults to None, equal weights.
    """

    def __init__(self,
                 weight: float = 0.1,
                 scale: float = 4.,
                 class_weight: Optional[Sequence[float]] = None) -> None:
        super().__init__()
        self.weight = weight
        self.scale = scale
        self.register_buffer(
            'class_weight',
            None if class_weight is None else torch.tensor(
                class_weight, dtype=torch.float32),
            persistent=False)

    def forward(self, logits: Tensor, label_map: Tensor,
                ignore_index: int) -> Tensor:
        """Compute the loss.

        Args:
            logits (Tensor): The codec's logits, shape
                (B, num_classes, H, W).
            label_map (Tensor): int64 labels, shape (B, H, W).
            ignore_index (int): Label of void pixels.

        Returns:
            Tensor: Mean over the pixels that are not void, a scalar; 0 if
            all are void.
        """
        loss = nn.functional.cross_entropy(
            self.scale * logits,
            label_map,
            weight=self.class_weight,
            ignore_index=ignore_index,
            reduction='sum')
        valid = label_map != ignore_index
        weights = valid.float()
        if self.class_weight is not None:
            weights = self.class_weight[label_map * valid] * valid
        return self.weight * loss / weights.sum().clamp(min=1e-6)


@MODELS.register_module()
class SemFlowModel(PairModel):
    r"""One velocity network and one autoencoder for both directions.

    .. math::
        L = E_{t, (z_0, z_1)} |v_\theta(z_t, t) - (z_1 - z_0)|^2, \quad
        z_t = (1 - t) z_0 + t z_1

    SemFlow (Wang et al., NeurIPS 2024), Eq. 8 to 13. z0 is the latent of the
    image (sampled from the autoencoder's posterior in training, its mode at
    inference), z1 that of the pseudo mask (always the mode).

    Args:
        velocity_net (dict): See :class:`PairModel`.
        autoencoder (dict): See :class:`PairModel`.
        codec (dict): See :class:`PairModel`.
        time_sampling (str): Distribution of t in training, ``'uniform'`` or
            ``'logit_normal'``. Defaults to ``'uniform'``.
        start_fraction (float): Part of a training batch that gets t = 0, see
            :class:`RectifiedFlowPath`. Defaults to 0.
        one_step_loss (dict, optional): Arguments of :class:`OneStepLoss`.
            Defaults to None, the paper's objective alone.
        **kwargs: See :class:`PairModel`.
    """

    preconditioned = True

    def __init__(self,
                 velocity_net: dict,
                 autoencoder: dict,
                 codec: dict,
                 time_sampling: str = 'uniform',
                 start_fraction: float = 0.,
                 one_step_loss: Optional[dict] = None,
                 **kwargs) -> None:
        super().__init__(velocity_net, autoencoder, codec, **kwargs)
        self.path = RectifiedFlowPath(time_sampling, start_fraction)
        self.one_step_loss = (
            None if one_step_loss is None else OneStepLoss(**one_step_loss))
        weight = getattr(self.one_step_loss, 'class_weight', None)
        if weight is not None and len(weight) != self.codec.num_classes:
            raise ValueError(
                'one_step_loss.class_weight must have num_classes='
                f'{self.codec.num_classes} values, but got {len(weight)}')

    def loss_of_latents(self, z0: Tensor, z1: Tensor,
                        label_maps: Tensor) -> Dict[str, Tensor]:
        """Compute the losses (Eq. 10); see :meth:`PairModel.loss_of_latents`.

        Returns:
            Dict[str, Tensor]: ``loss_flow`` and, if configured,
            ``loss_one_step``, float32 scalars.
        """
        t = self.path.sample_time(len(z0), device=z0.device)
        point = self.path.sample(z0, z1, t)
        pred_velocity = self.velocity_net(point.zt, point.t)
        error = (pred_velocity - point.velocity).square()
        losses = dict(loss_flow=self._mean_error(error, label_maps))
        if self.one_step_loss is not None:
            rest = (1 - t).view(-1, 1, 1, 1)
            logits = self.codec.logits(
                self.autoencoder.decode(point.zt + rest * pred_velocity))
            losses['loss_one_step'] = self.one_step_loss(
                logits, label_maps, self.codec.ignore_index)
        return losses

    def solve(self, network: Network, z: Tensor, times: Tensor, solver: str,
              return_trajectory: bool, generators: Generators) -> Tensor:
        """Solve the flow's equation (Eq. 11); see :meth:`PairModel.solve`."""
        return integrate(network, z, times, solver, return_trajectory)
