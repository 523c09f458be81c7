"""The probability path between image latents and mask latents."""

from dataclasses import dataclass
from typing import Callable, Dict, Optional

import torch
from torch import Tensor


def _uniform(size: int, **kwargs) -> Tensor:
    return torch.rand(size, **kwargs)


def _logit_normal(size: int, **kwargs) -> Tensor:
    return torch.randn(size, **kwargs).sigmoid()


TIME_SAMPLINGS: Dict[str, Callable[..., Tensor]] = dict(
    uniform=_uniform, logit_normal=_logit_normal)


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
        time_sampling (str): Distribution of t in training: ``'uniform'``
            (the paper) or ``'logit_normal'``, the sigmoid of a standard
            normal variable (Esser et al., ICML 2024, Sec. 3.1), which
            prefers the middle of the path. Defaults to ``'uniform'``.

    Raises:
        ValueError: If ``time_sampling`` is unknown.
    """

    def __init__(self, time_sampling: str = 'uniform') -> None:
        if time_sampling not in TIME_SAMPLINGS:
            raise ValueError('time_sampling must be one of '
                             f'{sorted(TIME_SAMPLINGS)}, '
                             f'but got {time_sampling!r}')
        self.time_sampling = time_sampling

    def sample_time(self,
                    batch_size: int,
                    device: Optional[torch.device] = None,
                    generator: Optional[torch.Generator] = None) -> Tensor:
        """Draw flow times for training.

        Args:
            batch_size (int): Number of times B.
            device (torch.device, optional): Device of the result. Defaults
                to None, torch's default device.
            generator (torch.Generator, optional): Source of randomness on
                that device. Defaults to None, torch's global one.

        Returns:
            Tensor: Flow time t, float32 in [0, 1], shape (B, ).
        """
        return TIME_SAMPLINGS[self.time_sampling](
            batch_size,
            dtype=torch.float32,
            device=device,
            generator=generator)

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
                hold one time a sample.
        """
        if z0.shape != z1.shape:
            raise ValueError('z0 and z1 must have the same shape, but got '
                             f'{tuple(z0.shape)} and {tuple(z1.shape)}')
        if t.shape != z0.shape[:1]:
            raise ValueError(f't must have shape {tuple(z0.shape[:1])}, '
                             f'but got {tuple(t.shape)}')
        s = t.view(-1, *[1] * (z0.ndim - 1))
        return PathSample(t=t, zt=(1 - s) * z0 + s * z1, velocity=z1 - z0)
