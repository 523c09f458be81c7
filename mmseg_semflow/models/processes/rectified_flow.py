"""SemFlow's own process: a rectified flow."""

from math import inf
from typing import Dict, Optional, Sequence, Union

import torch
from torch import Tensor

from mmseg_semflow.arguments import checked
from mmseg_semflow.flow import (
    FIXED_STEP_SOLVERS,
    NOISES,
    Generators,
    Network,
    RectifiedFlowPath,
    StepCallback,
    TimeDensity,
    integrate,
    octave_noise,
    time_quantile,
    uniform_times,
)
from mmseg_semflow.registry import MODELS

from .process import DIRECTIONS, Process, TrainingPoint


@MODELS.register_module()
@checked
class RectifiedFlow(Process):
    r"""The straight path between image and mask, in both directions.

    .. math::
        L = E_{t, (z_0, z_1)} |v_\theta(z_t, t) - (z_1 - z_0)|^2, \quad
        z_t = (1 - t) z_0 + t z_1

    SemFlow (Wang et al., NeurIPS 2024), Eq. 9 to 13.

    With ``mask_noise`` sigma, which is not in the paper, the flow ends at
    :math:`z_1 + \sigma \epsilon, \epsilon \sim N(0, 1)`, with several sigmas
    at :math:`z_1` and :func:`octave_noise`, in training and where synthesis
    starts: what the perturbation of the pixels is too small for, to decide
    what the picture looks like. Segmentation samples nothing. At
    t = 0 the state does not know the noise, so that the clean :math:`z_1` is
    the target there: the mean of the noisy ones, and so the same optimum.
    A segmentation of several steps then meets states without noise, which
    between the ends ``clean_fraction`` of a batch shows to the network.

    Args:
        time_sampling (str | Sequence): Density of t in training, or several,
            see :class:`RectifiedFlowPath`. Defaults to ``'uniform'``, the
            paper.
        start_fraction (float): Part of a training batch that gets t = 0, see
            :class:`RectifiedFlowPath`. Defaults to 0, the paper.
        end_fraction (float): Part that gets t = 1. Defaults to 0, the paper.
        mask_noise (float | Sequence[float]): Deviation sigma of the noise on the
            mask latent, in the units of the latents; or several, of noises that
            vary over 1, 2, 4, ... elements, see :func:`octave_noise`. Defaults to
            0, the paper.
        noise_density (str): Density of that noise, ``'normal'`` or
            ``'uniform'``: white noise then goes no further than sqrt(3) sigma,
            wider noise, between its corners, to twice that. Defaults to
            ``'normal'``.
        clean_fraction (float): Part of a batch in [0, 1) that gets no noise of
            ``mask_noise`` although its t is between the ends; those after the
            first, which get t = 0. Defaults to 0.
        time_grid (str | Sequence | Dict[str, str | Sequence]): Density of the
            solver's times, see :func:`time_quantile`: of both directions, or
            by their names, ``'image_to_mask'`` and ``'mask_to_image'``.
            Defaults to ``'uniform'``, the paper's equal steps.

    Raises:
        ValueError: If an argument breaks its rule.
    """

    def __init__(self,
                 time_sampling: Union[TimeDensity,
                                      Sequence[TimeDensity]] = 'uniform',
                 start_fraction: float = 0.,
                 end_fraction: float = 0.,
                 mask_noise: Union[float, Sequence[float]] = 0.,
                 noise_density: str = 'normal',
                 clean_fraction: float = 0.,
                 time_grid: Union[TimeDensity,
                                  Dict[str, TimeDensity]] = 'uniform') -> None:
        super().__init__()
        octaves = [*mask_noise] if isinstance(mask_noise, Sequence) else [mask_noise]
        if not octaves or not all(0 <= value < inf for value in octaves):
            raise ValueError('mask_noise must be finite and >= 0, or a list of such, '
                             f'but got {mask_noise}')
        if noise_density not in NOISES:
            raise ValueError(f'noise_density must be one of {sorted(NOISES)}, but got '
                             f'{noise_density!r}')
        self.path = RectifiedFlowPath(time_sampling, start_fraction, end_fraction)
        while octaves and not octaves[-1]:
            octaves.pop()
        self.mask_noise = tuple(octaves)
        self.noise_density = noise_density
        if not 0 <= clean_fraction <= 1 - start_fraction - end_fraction:
            raise ValueError(
                'clean_fraction must be at least 0 and with start_fraction and '
                f'end_fraction at most 1, but got {clean_fraction}')
        self.clean_fraction = clean_fraction
        if not isinstance(time_grid, dict):
            time_grid = dict.fromkeys(DIRECTIONS, time_grid)
        self.time_grids = {**dict.fromkeys(DIRECTIONS, 'uniform'), **time_grid}
        for direction, density in self.time_grids.items():
            if direction not in DIRECTIONS:
                raise ValueError('the keys of time_grid must be among '
                                 f'{DIRECTIONS}, but got {direction!r}')
            time_quantile(density, torch.zeros(()))
        if self.mask_noise:
            self.stochastic = ('mask_to_image', )
            self.trained_with = dict(noise_of_masks='process of other mask_noise')
            # One number where it is white noise, as in checkpoints of before.
            stored = octaves[0] if len(octaves) == 1 else octaves
            self.register_buffer('noise_of_masks', torch.tensor(stored).float())
            if noise_density != 'normal':
                self.trained_with['noise_is_uniform'] = 'process of other noise_density'
                self.register_buffer('noise_is_uniform', torch.tensor(True))

    def sample(self, z0: Tensor, z1: Tensor) -> TrainingPoint:
        """See :meth:`Process.sample`; the target is z1 - z0."""
        t = self.path.sample_time(len(z0), device=z0.device)
        if not self.mask_noise:
            point = self.path.sample(z0, z1, t)
            return TrainingPoint(t=t, state=point.zt, target=point.velocity)
        noise = octave_noise(z1, self.mask_noise, density=self.noise_density)
        first = self.path.num_at_start(len(z0))
        noise[first:first + round(self.clean_fraction * len(z0))] = 0.
        point = self.path.sample(z0, z1 + noise, t)
        at_start = (t == 0).view(-1, 1, 1, 1)
        return TrainingPoint(
            t=t,
            state=point.zt,
            target=torch.where(at_start, z1 - z0, point.velocity))

    def estimate(self, point: TrainingPoint, prediction: Tensor,
                 end: str) -> Tensor:
        """See :meth:`Process.estimate`: one Euler step from t to the end."""
        rest = (float(end == 'mask') - point.t).view(-1, 1, 1, 1)
        return point.state + rest * prediction

    def start_of_synthesis(self,
                           z1: Tensor,
                           generators: Generators = None) -> Tensor:
        """See :meth:`Process.start_of_synthesis`; with ``mask_noise``."""
        if not self.mask_noise:
            return z1
        return z1 + octave_noise(
            z1, self.mask_noise, generators, self.noise_density)

    def times(self, num_steps: int, start: float, end: float) -> Tensor:
        """See :meth:`Process.times`; dense where ``time_grid`` is."""
        density = self.time_grids[DIRECTIONS[int(start > end)]]
        return time_quantile(density, uniform_times(num_steps, start, end))

    def has_fixed_steps(self, solver: str) -> bool:
        """See :meth:`Process.has_fixed_steps`."""
        return solver in FIXED_STEP_SOLVERS

    def solve(self,
              network: Network,
              z: Tensor,
              times: Tensor,
              solver: str,
              return_trajectory: bool = False,
              generators: Generators = None,
              callback: Optional[StepCallback] = None) -> Tensor:
        """See :meth:`Process.solve`; Eq. 11."""
        if times[0] > times[-1]:
            z = self.start_of_synthesis(z, generators)
        return integrate(network, z, times, solver, return_trajectory, callback)
