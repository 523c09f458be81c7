"""The probability path between image latents and mask latents."""

import warnings
from dataclasses import dataclass
from typing import Callable, Dict, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor

# By name: how t = Q(u) distributes a u that is uniform on [0, 1].
TIME_QUANTILES: Dict[str, Callable[[Tensor], Tensor]] = dict(
    uniform=lambda u: u,
    logit_normal=lambda u: torch.special.ndtri(u).sigmoid())
TimeDensity = Union[str, Tuple[float, float]]


def time_quantile(density: TimeDensity, u: Tensor) -> Tensor:
    r"""Distribute flow times: t = Q(u), the inverse of a density's integral.

    Of random u it samples training times; of an equidistant grid it makes
    one whose steps are short where the density is high, with the same ends.

    Args:
        density (str | Tuple[float, float]): ``'uniform'``;
            ``'logit_normal'``, the sigmoid of a standard normal variable
            (Esser et al., ICML 2024, Sec. 3.1), which prefers the middle of
            the path; or the two parameters of a Beta density, of which one
            must be 1: :math:`(a, 1)` is :math:`Q(u) = u^{1/a}`, which for
            a > 1 prefers the mask's end, and :math:`(1, b)` is
            :math:`1 - (1 - u)^{1/b}`, which for b > 1 prefers the image's.
        u (Tensor): In [0, 1], any shape.

    Returns:
        Tensor: Flow times of the same shape; 0 for 0 and 1 for 1.

    Raises:
        ValueError: If there is no such density.
    """
    if isinstance(density, str):
        if density not in TIME_QUANTILES:
            raise ValueError(
                f'a density of times must be one of {sorted(TIME_QUANTILES)} or '
                f'two parameters of a Beta density, but got {density!r}')
        return TIME_QUANTILES[density](u)
    if (len(density) != 2 or not all(isinstance(x, (int, float)) for x in density)
            or min(density) <= 0 or 1 not in density):
        raise ValueError('a Beta density of times must have two positive '
                         'parameters, of which one is 1, so that it leaves out '
                         f'no end, but got {density}')
    a, b = density
    return u**(1 / a) if b == 1 else 1 - (1 - u)**(1 / b)


def _part_of(batch_size: int, fraction: float) -> int:
    return max(1, round(fraction * batch_size)) if fraction else 0


@dataclass
class PathSample:
    """A point on the path and the velocity there.

    Attributes:
        t (Tensor): Flow time, float32 in [0, 1], shape (B, ).
        zt (Tensor): The point on the path, shape (B, C, h, w).
        velocity (Tensor): The time derivative of the path, shape
            (B, C, h, w).
    """

    t: Tensor
    zt: Tensor
    velocity: Tensor


class RectifiedFlowPath:
    r"""The straight line between an image latent and a mask latent.

    .. math::
        z_t = (1 - t) z_0 + t z_1, \qquad
        \frac{\mathrm{d} z_t}{\mathrm{d} t} = z_1 - z_0

    SemFlow (Wang et al., NeurIPS 2024), Eq. 9 and 10. Time runs from 0 at
    the image to 1 at the mask.

    Args:
        time_sampling (str | Sequence): Density of t in training, see
            :func:`time_quantile`; or several of them, which the samples of a
            batch follow in turn, such as ``[(1, 2.5), (2.5, 1)]``, one for
            each end. Defaults to ``'uniform'``, the paper.
        start_fraction (float): Part of a batch in [0, 1) that gets t = 0
            instead, where the first step of every segmentation is made; at
            least one sample unless it is 0. A warning tells if that is all of a
            small batch. Defaults to 0, the paper.
        end_fraction (float): Part that gets t = 1, where every synthesis
            begins; at least one sample unless it is 0 or all others start.
            Defaults to 0, the paper.

    Raises:
        ValueError: If ``time_sampling`` is unknown or the fractions are
            negative, exceed 1 together, or leave out an end.
    """

    def __init__(self,
                 time_sampling: Union[TimeDensity,
                                      Sequence[TimeDensity]] = 'uniform',
                 start_fraction: float = 0.,
                 end_fraction: float = 0.) -> None:
        single = isinstance(time_sampling, str) or all(
            isinstance(x, (int, float)) for x in time_sampling)
        self.densities = [time_sampling] if single else list(time_sampling)
        for density in self.densities:
            time_quantile(density, torch.zeros(()))
        for name, value in dict(
                start_fraction=start_fraction, end_fraction=end_fraction).items():
            if not 0 <= value < 1:
                raise ValueError(f'{name} must be in [0, 1), so that no end is left '
                                 f'out, but got {value}')
        if start_fraction + end_fraction > 1:
            raise ValueError(
                'start_fraction and end_fraction must not exceed 1 together, but '
                f'got {start_fraction} and {end_fraction}')
        self.time_sampling = time_sampling
        self.start_fraction = start_fraction
        self.end_fraction = end_fraction

    def num_at_start(self, batch_size: int) -> int:
        """Count the first samples of a batch that get t = 0."""
        return _part_of(batch_size, self.start_fraction)

    def num_at_end(self, batch_size: int) -> int:
        """Count the last samples of a batch that get t = 1."""
        return min(
            _part_of(batch_size, self.end_fraction),
            batch_size - self.num_at_start(batch_size))

    def sample_time(self,
                    batch_size: int,
                    device: Optional[torch.device] = None,
                    generator: Optional[torch.Generator] = None) -> Tensor:
        """Sample flow times for training.

        Args:
            batch_size (int): Number of times B.
            device (torch.device, optional): Device of the result. Defaults
                to None, torch's default device.
            generator (torch.Generator, optional): Source of randomness on
                that device. Defaults to None, torch's global one.

        Returns:
            Tensor: Flow time t, float32 in [0, 1], shape (B, ).
        """
        t = torch.empty(batch_size, dtype=torch.float32, device=device)
        for first, density in enumerate(self.densities):
            turn = t[first::len(self.densities)]
            if density == 'logit_normal':
                turn.normal_(generator=generator).sigmoid_()
            else:
                turn.copy_(
                    time_quantile(density, turn.uniform_(generator=generator)))
        starts = self.num_at_start(batch_size)
        if starts == batch_size and (1 - self.start_fraction) * batch_size > 0.25:
            warnings.warn(
                f'start_fraction={self.start_fraction} of a batch of {batch_size} is '
                'all of it: every t is 0, and no other is trained. Take a larger '
                'batch, or start_fraction=0',
                stacklevel=2)
        t[:starts].zero_()
        t[batch_size - self.num_at_end(batch_size):].fill_(1.)
        return t

    def sample(self, z0: Tensor, z1: Tensor, t: Tensor) -> PathSample:
        """Evaluate the path and its velocity.

        Args:
            z0 (Tensor): Image latent, shape (B, C, h, w).
            z1 (Tensor): Mask latent, shape (B, C, h, w).
            t (Tensor): Flow time in [0, 1], shape (B, ).

        Returns:
            PathSample: t, z_t and the velocity z1 - z0.

        Raises:
            ValueError: If the shapes of the latents differ or ``t`` does not
                hold one time per sample.
        """
        if z0.shape != z1.shape:
            raise ValueError('z0 and z1 must have the same shape, but got '
                             f'{tuple(z0.shape)} and {tuple(z1.shape)}')
        if t.shape != z0.shape[:1]:
            raise ValueError(f't must have shape {tuple(z0.shape[:1])}, '
                             f'but got {tuple(t.shape)}')
        s = t.view(-1, *[1] * (z0.ndim - 1))
        return PathSample(t=t, zt=(1 - s) * z0 + s * z1, velocity=z1 - z0)
