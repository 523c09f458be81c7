"""SymmFlow: image and mask transported jointly, each against noise."""

from typing import Optional, Sequence, Union

import torch
from torch import Tensor

from mmseg_semflow.arguments import checked
from mmseg_semflow.flow import (
    Generators,
    Network,
    StepCallback,
    TimeDensity,
    normal_like,
)
from mmseg_semflow.registry import MODELS

from .process import DIRECTIONS, TrainingPoint
from .rectified_flow import RectifiedFlow


@MODELS.register_module()
@checked
class SymmetricFlow(RectifiedFlow):
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
        time_sampling (str | Sequence): See :class:`RectifiedFlow`. Defaults to
            ``'uniform'``.
        start_fraction (float): See :class:`RectifiedFlow`. Defaults to 0.
        end_fraction (float): See :class:`RectifiedFlow`. Defaults to 0.
    """

    stochastic = DIRECTIONS
    target = 'velocities of image and mask'
    num_inputs = 2
    outputs = ('image', 'mask')

    def __init__(self,
                 time_sampling: Union[TimeDensity,
                                      Sequence[TimeDensity]] = 'uniform',
                 start_fraction: float = 0.,
                 end_fraction: float = 0.) -> None:
        super().__init__(time_sampling, start_fraction, end_fraction)

    def sample(self, z0: Tensor, z1: Tensor) -> TrainingPoint:
        """See :meth:`Process.sample`; the target is s1 - s0."""
        return super().sample(
            torch.cat([z0, torch.randn_like(z0)], 1),
            torch.cat([torch.randn_like(z1), z1], 1))

    def estimate(self, point: TrainingPoint, prediction: Tensor,
                 end: str) -> Tensor:
        """See :meth:`Process.estimate`."""
        pair = super().estimate(point, prediction, end)
        return pair.chunk(2, 1)[self.outputs.index(end)]

    def solve(self,
              network: Network,
              z: Tensor,
              times: Tensor,
              solver: str,
              return_trajectory: bool = False,
              generators: Generators = None,
              callback: Optional[StepCallback] = None) -> Tensor:
        """Move the latent and noise at once; see :meth:`Process.solve`.

        The states that are returned are those of the end that is to be
        found: of the mask on the way from 0 to 1, else of the image. The
        callback gets both, (B, 2 C, h, w), image first.
        """
        pair = [z, normal_like(z, generators)]
        to_mask = int(times[0] < times[-1])
        states = super().solve(
            network,
            torch.cat(pair if to_mask else pair[::-1], 1),
            times,
            solver,
            return_trajectory,
            callback=callback)
        return states.chunk(2, -3)[to_mask]
