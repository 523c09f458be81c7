"""The networks: diffusers and transformers live here and nowhere else."""

from .autoencoder import (
    FrozenAutoencoder,
    KLAutoencoder,
    LatentGaussian,
    PatchAutoencoder,
)
from .preconditioning import EndStdPreconditioning
from .schedulers import build_scheduler, denoise, steps_of
from .velocity_unet import VelocityUNet

__all__ = [
    'EndStdPreconditioning', 'FrozenAutoencoder', 'KLAutoencoder',
    'LatentGaussian', 'PatchAutoencoder', 'VelocityUNet', 'build_scheduler', 'denoise',
    'steps_of'
]
