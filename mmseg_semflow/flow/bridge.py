"""The Brownian bridge between image latents and mask latents."""

import torch
from torch import Tensor

from .noise import Generators, normal_like


class BrownianBridgePath:
    r"""A random path that is pinned at an image latent and a mask latent.

    .. math::
        z_t = (1 - t) z_0 + t z_1 + \sqrt{\delta_t} \epsilon, \quad
        \delta_t = 2 s (t - t^2), \quad \epsilon \sim N(0, I)

    BBDM (Li et al., CVPR 2023), Sec. 3.2; flow time t is their m_t, in
    continuous steps. As in SemFlow time runs from 0 at the image to 1 at the
    mask; the variance is the same seen from either end.

    Args:
        max_variance (float): Half of s: the variance at t = 1 / 2. Defaults
            to 0.5, s = 1.

    Raises:
        ValueError: If ``max_variance`` is not positive.
    """

    def __init__(self, max_variance: float = 0.5) -> None:
        if max_variance <= 0:
            raise ValueError(
                f'max_variance must be positive, but got {max_variance}')
        self.max_variance = max_variance

    def variance(self, t: Tensor) -> Tensor:
        """Compute the variance of the path at flow times in [0, 1]."""
        return 4 * self.max_variance * t * (1 - t)

    def sample(self, z0: Tensor, z1: Tensor, t: Tensor) -> Tensor:
        """Sample points on the path.

        Args:
            z0 (Tensor): Image latent, shape (B, C, h, w).
            z1 (Tensor): Mask latent, shape (B, C, h, w).
            t (Tensor): Flow time in [0, 1], shape (B, ).

        Returns:
            Tensor: z_t, shape (B, C, h, w).
        """
        s = t.view(-1, *[1] * (z0.ndim - 1))
        noise = self.variance(s).sqrt() * torch.randn_like(z0)
        return (1 - s) * z0 + s * z1 + noise

    def step(self,
             zt: Tensor,
             source: Tensor,
             target: Tensor,
             distance: Tensor,
             next_distance: Tensor,
             eta: float = 1.,
             generators: Generators = None) -> Tensor:
        r"""Sample a point nearer to the target, given the point at hand.

        With the time m measured from the target,

        .. math::
            z_{m'} = (1 - m') x + m' y +
            \sqrt{\frac{\delta_{m'} - \sigma^2}{\delta_m}}
            (z_m - (1 - m) x - m y) + \sigma \epsilon, \quad
            \sigma^2 = \eta^2 \frac{\delta_{m'}}{\delta_m} \left(\delta_m
            - \delta_{m'} \frac{(1 - m)^2}{(1 - m')^2}\right)

        (BBDM, Sec. 3.3). For every eta a point of the path at m < 1 leads to
        one of the path at m'. At m = 1, where the variance is 0, the result
        is sampled from the path only for eta = 1.

        Args:
            zt (Tensor): Point on the path, shape (B, C, h, w).
            source (Tensor): The end y where the path began, of that shape.
            target (Tensor): The end x, as far as it is known.
            distance (Tensor): m in (0, 1], a scalar.
            next_distance (Tensor): m' in [0, m), a scalar.
            eta (float): 1 for the posterior of the bridge, 0 for a path
                without further noise. Defaults to 1.
            generators (Sequence[torch.Generator], optional): See
                :func:`normal_like`. Defaults to None.

        Returns:
            Tensor: The next point, shape (B, C, h, w).
        """
        m, n = distance, next_distance
        variance, next_variance = self.variance(m), self.variance(n)
        mean = (1 - n) * target + n * source
        if next_variance == 0:
            return mean
        if variance == 0:  # pinned at the source: the marginal itself
            return mean + eta * next_variance.sqrt() * normal_like(
                zt, generators)
        ratio = ((1 - m) / (1 - n)).square()
        added = eta**2 * next_variance / variance * (
            variance - next_variance * ratio)
        kept = ((next_variance - added) / variance).clamp(min=0).sqrt()
        z = mean + kept * (zt - (1 - m) * target - m * source)
        if eta > 0:
            z = z + added.sqrt() * normal_like(zt, generators)
        return z
