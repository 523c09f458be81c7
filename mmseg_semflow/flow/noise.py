"""Random numbers that depend on what they are for, and on nothing else."""

import hashlib
from typing import Optional, Sequence

import torch
from torch import Tensor

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
    if generators is None:
        return torch.randn_like(z)
    if len(generators) != len(z):
        raise ValueError(f'there must be one generator for each of {len(z)} '
                         f'samples, but got {len(generators)}')
    return torch.stack([
        torch.randn(z.shape[1:], generator=generator)
        for generator in generators
    ]).to(z)
