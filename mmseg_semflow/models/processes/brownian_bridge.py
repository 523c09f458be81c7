"""BBDM: a Brownian bridge between images and masks."""

from typing import Optional

import torch
from torch import Tensor

from mmseg_semflow.arguments import checked
from mmseg_semflow.flow import (
    BrownianBridgePath,
    Generators,
    Network,
    StepCallback,
    check_num_steps,
)
from mmseg_semflow.registry import MODELS

from .process import DIRECTIONS, Process, TrainingPoint


@MODELS.register_module()
@checked
class BrownianBridge(Process):
    r"""A Brownian bridge from one latent to the other (BBDM).

    .. math::
        L = E_{t, \epsilon} |\epsilon_\theta(z_t, t) - (z_t - x)|^2

    Li et al., CVPR 2023, Alg. 1 and 2, with z_t from
    :class:`BrownianBridgePath`, t uniform, and x the end that is to be found:
    the image latent z_0 or the mask latent z_1. Each direction is a training
    of its own. The only solver is ``'bridge'``.

    Args:
        direction (str): ``'image_to_mask'`` or ``'mask_to_image'``. Defaults
            to ``'mask_to_image'``.
        max_variance (float): See :class:`BrownianBridgePath`. Defaults to
            0.5.
        eta (float): Noise in sampling, see :meth:`BrownianBridgePath.step`.
            Defaults to 1.

    Raises:
        ValueError: If ``direction`` is unknown or ``eta`` not in [0, 1].
    """

    stochastic = DIRECTIONS
    target = 'the difference to the end'
    outputs = ('bridge', )
    default_solver = 'bridge'
    trained_with = dict(bridge='bridge of other [t of the target, max_variance]')

    def __init__(self,
                 direction: str = 'mask_to_image',
                 max_variance: float = 0.5,
                 eta: float = 1.) -> None:
        super().__init__()
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
        """See :meth:`Process.check_sampling`."""
        check_num_steps(num_steps)
        if solver != self.default_solver:
            raise ValueError(f'solver must be {self.default_solver!r} for '
                             f'{type(self).__name__}, but got {solver!r}')

    def sample(self, z0: Tensor, z1: Tensor) -> TrainingPoint:
        """See :meth:`Process.sample`; the target is z_t minus the end."""
        t = torch.rand(len(z0), device=z0.device)
        zt = self.path.sample(z0, z1, t)
        end = z0 if self.directions == ('mask_to_image', ) else z1
        return TrainingPoint(t=t, state=zt, target=zt - end)

    def estimate(self, point: TrainingPoint, prediction: Tensor,
                 end: str) -> Tensor:
        """See :meth:`Process.estimate`; of the end that it leads to alone."""
        self.check_direction(
            'image_to_mask' if end == 'mask' else 'mask_to_image', 'estimate')
        return point.state - prediction

    def solve(self,
              network: Network,
              z: Tensor,
              times: Tensor,
              solver: str,
              return_trajectory: bool = False,
              generators: Generators = None,
              callback: Optional[StepCallback] = None) -> Tensor:
        """Walk along the bridge; see :meth:`Process.solve`."""
        self.check_sampling(len(times) - 1, solver)
        states = [z]
        for t, next_t in zip(times, times[1:], strict=False):
            zt = states[-1]
            target = zt - network(zt, t.expand(len(zt)))
            zt = self.path.step(
                zt, z, target, (t - times[-1]).abs(),
                (next_t - times[-1]).abs(), self.eta, generators)
            changed = callback and callback(next_t, zt)
            states.append(zt if changed is None else changed)
        return torch.stack(states) if return_trajectory else states[-1]
