"""Random numbers that depend on what they are for, and on nothing else."""

import hashlib
from typing import Callable, Optional, Sequence

import torch
from torch import Tensor, nn

Generators = Optional[Sequence[torch.Generator]]


def seeded_generator(seed: int, number: int, content: Tensor) -> torch.Generator:
    """Make the source of randomness of one sample.

    Args:
        seed (int): The user's seed.
        number (int): Which of the samples of this content, from 0.
        content (Tensor): What the sample is made for, uint8, of any shape:
            labels or an image.

    Returns:
        torch.Generator: On the CPU; the same for the same arguments, however
        samples are batched or ordered.
    """
    content = content.cpu().contiguous()
    digest = hashlib.sha256(
        repr((seed, number, tuple(content.shape))).encode())
    digest.update(content.numpy().tobytes())
    return torch.Generator().manual_seed(
        int.from_bytes(digest.digest()[:8], 'big', signed=True))


def normal_like(z: Tensor, generators: Generators = None) -> Tensor:
    """Sample standard normal noise.

    Args:
        z (Tensor): Gives shape (B, ...), dtype and device.
        generators (Sequence[torch.Generator], optional): One per sample, on
            the CPU. Defaults to None, torch's global one.

    Returns:
        Tensor: Noise of the shape of z.

    Raises:
        ValueError: If there is not one generator per sample.
    """
    return _like(z, generators, torch.randn, torch.randn_like)


def uniform_like(z: Tensor, generators: Generators = None) -> Tensor:
    """Sample uniform noise in [-sqrt(3), sqrt(3)], of deviation 1.

    See :func:`normal_like`.
    """
    return 12**0.5 * (_like(z, generators, torch.rand, torch.rand_like) - 0.5)


def _like(z: Tensor, generators: Generators,
          sample: Callable[..., Tensor],
          sample_like: Callable[[Tensor], Tensor]) -> Tensor:
    if generators is None:
        return sample_like(z)
    if len(generators) != len(z):
        raise ValueError(f'there must be one generator for each of {len(z)} '
                         f'samples, but got {len(generators)}')
    return torch.stack([
        sample(z.shape[1:], generator=generator) for generator in generators
    ]).to(z)


# By the names that configs have.
NOISES = dict(normal=normal_like, uniform=uniform_like)


def between_corners(corners: Tensor, side: int, size: Sequence[int]) -> Tensor:
    """Interpolate what is known at the corners of squares.

    Args:
        corners (Tensor): Shape (B, C, m + 1, n + 1), from the upper left.
        side (int): Side of a square, in elements.
        size (Sequence[int]): Height and width H, W, at most m and n squares.

    Returns:
        Tensor: Shape (B, C, H, W).
    """
    height, width = size
    return nn.functional.interpolate(
        corners, [(n - 1) * side + 1 for n in corners.shape[-2:]],
        mode='bilinear',
        align_corners=True)[..., :height, :width]


def octave_noise(z: Tensor,
                 deviations: Sequence[float],
                 generators: Generators = None,
                 density: str = 'normal') -> Tensor:
    r"""Sample noise with structure of several sizes.

    The sum of independent noises, of which number i, from 0, is drawn at the
    corners of squares with a side of :math:`2^i` elements, from the upper left,
    interpolated between them, and scaled to one deviation everywhere. White
    noise, number 0 alone, is nearly the same in the mean of many elements, so
    that it decides no light and no layout. After Whitaker's multi-resolution
    noise (2023, https://wandb.ai/johnowhitaker/multires_noise).

    Args:
        z (Tensor): Gives shape (B, C, H, W), dtype and device.
        deviations (Sequence[float]): Of the noises, at least one, in the units
            of z.
        generators (Sequence[torch.Generator], optional): See
            :func:`normal_like`. Defaults to None.
        density (str): Of each of the noises where it is drawn, one of
            ``NOISES``. Defaults to ``'normal'``.

    Returns:
        Tensor: Noise of the shape of z. Its variance is the sum of the squared
        deviations, at every element.
    """
    sample = NOISES[density]
    noise = deviations[0] * sample(z, generators)
    for octave, deviation in enumerate(deviations[1:], 1):
        side = 2**octave
        squares = [-(-length // side) for length in z.shape[-2:]]
        corners = z.new_empty(*z.shape[:-2], *(n + 1 for n in squares))
        between = between_corners(
            sample(corners, generators), side, z.shape[-2:])
        # Of two corners with the weights w and 1 - w, in each direction.
        down, right = (
            (w.square() + (1 - w).square()).sqrt() for w in
            (torch.arange(n, device=z.device) % side / side for n in z.shape[-2:]))
        noise += deviation * between / torch.outer(down, right).to(z)
    return noise
