"""The networks: diffusers and transformers live here and nowhere else.

They are imported where they are used and not with this package, which would
take a quarter longer than the import of mmsegmentation's models.
"""

from .autoencoder import (
    DCAutoencoder,
    DiffusersAutoencoder,
    Flux2Autoencoder,
    FrozenAutoencoder,
    KLAutoencoder,
    LatentGaussian,
    PatchAutoencoder,
)
from .features import (
    EfficientNetLiteFeatures,
    FeatureNetwork,
    InceptionFeatures,
    TimmFeatures,
)
from .preconditioning import CleanEnds, EndStdPreconditioning, MaskPreconditioning
from .schedulers import build_scheduler, denoise, steps_of
from .style_token import StyleToken
from .text_prompt import TextPrompt
from .tiny_autoencoder import TinyAutoencoder
from .velocity_transformer import VelocityTransformer
from .velocity_unet import VelocityUNet

__all__ = [
    'CleanEnds', 'DCAutoencoder', 'DiffusersAutoencoder', 'EfficientNetLiteFeatures',
    'EndStdPreconditioning', 'FeatureNetwork', 'Flux2Autoencoder', 'FrozenAutoencoder',
    'InceptionFeatures', 'KLAutoencoder', 'LatentGaussian', 'MaskPreconditioning',
    'PatchAutoencoder', 'StyleToken', 'TextPrompt', 'TimmFeatures', 'TinyAutoencoder',
    'VelocityTransformer', 'VelocityUNet', 'build_scheduler', 'denoise', 'steps_of'
]
