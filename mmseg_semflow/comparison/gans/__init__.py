"""The GANs that SemFlow is compared with, on the same masks and metrics."""

from .mask_batches import MaskTranslationDataPreProcessor
from .models import SCGAN, SPADE, MaskCycleGAN, MaskPix2Pix, Pix2PixHD
from .networks import (
    GlobalGenerator,
    MultiScalePatchDiscriminator,
    SCGANGenerator,
    SPADEGenerator,
)

__all__ = [
    'SCGAN', 'SPADE', 'GlobalGenerator', 'MaskCycleGAN', 'MaskPix2Pix',
    'MaskTranslationDataPreProcessor', 'MultiScalePatchDiscriminator',
    'Pix2PixHD', 'SCGANGenerator', 'SPADEGenerator'
]
