"""SymmFlow: image and mask transported jointly, each against noise."""

from typing import Dict

import torch
from mmengine.registry import MODELS
from torch import Tensor

from mmseg_semflow.flow import (
    Generators,
    RectifiedFlowPath,
    integrate,
    normal_like,
)

from .pair_model import Network, PairModel


@MODELS.register_module()
class SymmFlowModel(PairModel):
    r"""One flow of the pair (image, noise) to the pair (noise, mask).

    .. math::
        L = E_t |v_\theta(s_t, t) - (s_1 - s_0)|^2, \quad
        s_t = (1 - t) s_0 + t s_1, \quad
        s_0 = (z_0, \epsilon_y), \quad s_1 = (\epsilon_x, z_1)

    Symmetrical Flow Matching (Caetano et al., AAAI 2026, arXiv 2506.10634),
    its objective for label maps; time runs from 0 at the image to 1 at the
    mask, as everywhere here (theirs runs the other way). The network has
    twice the channels of a latent at both ends. Synthesis is made diverse by
    the noise beside the mask, segmentation depends on that beside the image.

    Args:
        velocity_net (dict): See :class:`PairModel`.
        autoencoder (dict): See :class:`PairModel`.
        codec (dict): See :class:`PairModel`.
        time_sampling (str): See :class:`RectifiedFlowPath`. Defaults to
            ``'uniform'``.
        start_fraction (float): See :class:`RectifiedFlowPath`. Defaults to 0.
        **kwargs: See :class:`PairModel`.
    """

    stochastic = True
    state_parts = (2, 2)

    def __init__(self,
                 velocity_net: dict,
                 autoencoder: dict,
                 codec: dict,
                 time_sampling: str = 'uniform',
                 start_fraction: float = 0.,
                 **kwargs) -> None:
        super().__init__(velocity_net, autoencoder, codec, **kwargs)
        self.path = RectifiedFlowPath(time_sampling, start_fraction)

    def loss_of_latents(self, z0: Tensor, z1: Tensor,
                        label_maps: Tensor) -> Dict[str, Tensor]:
        """See :meth:`PairModel.loss_of_latents`; ``loss_image`` and ``loss_mask``."""
        point = self.path.sample(
            torch.cat([z0, torch.randn_like(z0)], 1),
            torch.cat([torch.randn_like(z1), z1], 1),
            self.path.sample_time(len(z0), device=z0.device))
        error = self.velocity_net(point.zt, point.t) - point.velocity
        of_image, of_mask = error.square().chunk(2, 1)
        return dict(
            loss_image=self._mean_error(of_image, label_maps),
            loss_mask=self._mean_error(of_mask, label_maps))

    def solve(self, network: Network, z: Tensor, times: Tensor, solver: str,
              return_trajectory: bool, generators: Generators) -> Tensor:
        """Move the latent and noise at once; see :meth:`PairModel.solve`.

        The states that are returned are those of the end that is to be
        found: of the mask on the way from 0 to 1, else of the image.
        """
        pair = [z, normal_like(z, generators)]
        to_mask = int(times[0] < times[-1])
        states = integrate(
            network,
            torch.cat(pair if to_mask else pair[::-1], 1), times, solver,
            return_trajectory)
        return states.chunk(2, -3)[to_mask]
