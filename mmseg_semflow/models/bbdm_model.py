"""Brownian-bridge diffusion between images and masks."""

from typing import Dict

import torch
from mmengine.registry import MODELS
from torch import Tensor

from mmseg_semflow.flow import (
    BrownianBridgePath,
    Generators,
    check_num_steps,
)

from .pair_model import DIRECTIONS, Network, PairModel


@MODELS.register_module()
class BBDMModel(PairModel):
    r"""A Brownian bridge from one latent to the other (BBDM).

    .. math::
        L = E_{t, \epsilon} |\epsilon_\theta(z_t, t) - (z_t - x)|^2

    Li et al., CVPR 2023, Alg. 1 and 2, with z_t from
    :class:`BrownianBridgePath` and x the end that is to be found: the image
    latent z_0 or the mask latent z_1. Each direction is a training of its
    own.

    Args:
        velocity_net (dict): See :class:`PairModel`; here it predicts the
            difference to the target.
        autoencoder (dict): See :class:`PairModel`.
        codec (dict): See :class:`PairModel`.
        direction (str): ``'image_to_mask'`` or ``'mask_to_image'``. Defaults
            to ``'mask_to_image'``.
        max_variance (float): See :class:`BrownianBridgePath`. Defaults to
            0.5.
        eta (float): Noise in sampling, see :meth:`BrownianBridgePath.step`.
            Defaults to 1.
        **kwargs: See :class:`PairModel`.

    Raises:
        ValueError: If ``direction`` is unknown or ``eta`` not in [0, 1].
    """

    default_solver = 'bridge'
    stochastic = True
    trained_with = {
        **PairModel.trained_with, 'bridge': 'bridge of other [t of the target, '
        'max_variance]'
    }

    def __init__(self,
                 velocity_net: dict,
                 autoencoder: dict,
                 codec: dict,
                 direction: str = 'mask_to_image',
                 max_variance: float = 0.5,
                 eta: float = 1.,
                 **kwargs) -> None:
        super().__init__(velocity_net, autoencoder, codec, **kwargs)
        if direction not in DIRECTIONS:
            raise ValueError(
                f'direction must be one of {DIRECTIONS}, but got {direction!r}')
        if not 0 <= eta <= 1:
            raise ValueError(f'eta must be in [0, 1], but got {eta}')
        self.directions = (direction, )
        self.path = BrownianBridgePath(max_variance)
        self.eta = eta
        self.register_buffer(
            'bridge',
            torch.tensor([float(direction == 'image_to_mask'), max_variance]))

    def check_sampling(self, num_steps: int, solver: str) -> None:
        """See :meth:`PairModel.check_sampling`."""
        check_num_steps(num_steps)
        if solver != self.default_solver:
            raise ValueError(f'solver must be {self.default_solver!r} for '
                             f'BBDM, but got {solver!r}')

    def loss_of_latents(self, z0: Tensor, z1: Tensor,
                        label_maps: Tensor) -> Dict[str, Tensor]:
        """See :meth:`PairModel.loss_of_latents`; ``loss_bridge``."""
        t = torch.rand(len(z0), device=z0.device)
        zt = self.path.sample(z0, z1, t)
        target = z0 if self.directions == ('mask_to_image', ) else z1
        error = self.velocity_net(zt, t) - (zt - target)
        return dict(loss_bridge=self._mean_error(error.square(), label_maps))

    def solve(self, network: Network, z: Tensor, times: Tensor, solver: str,
              return_trajectory: bool, generators: Generators) -> Tensor:
        """Walk along the bridge; see :meth:`PairModel.solve`."""
        self.check_sampling(len(times) - 1, solver)
        states = [z]
        zt = z
        for t, next_t in zip(times, times[1:], strict=False):
            target = zt - network(zt, t.expand(len(zt)))
            zt = self.path.step(
                zt, z, target, (t - times[-1]).abs(),
                (next_t - times[-1]).abs(), self.eta, generators)
            if return_trajectory:
                states.append(zt)
        return torch.stack(states) if return_trajectory else zt
