"""The networks: diffusers and transformers live here and nowhere else."""

from .autoencoder import (
    FrozenAutoencoder,
    KLAutoencoder,
    LatentGaussian,
    PatchAutoencoder,
)
from .velocity_unet import VelocityUNet

__all__ = [
    'FrozenAutoencoder', 'KLAutoencoder', 'LatentGaussian',
    'PatchAutoencoder', 'VelocityUNet'
]
