"""The GANs that SemFlow is compared with, on the same masks and metrics."""

from mmseg_semflow.extras import MissingExtraError

try:
    # The border to mmagic, which makes it importable.
    import mmseg_semflow.models.generators  # noqa: F401
except ImportError as error:
    raise MissingExtraError('A GAN of the comparison', 'mmagic', 'comparison',
                            error.__cause__ or error) from error

from .gan_models import SCGAN, SPADE, MaskCycleGAN, MaskPix2Pix, Pix2PixHD
from .gan_networks import (
    GlobalGenerator,
    MultiScalePatchDiscriminator,
    SCGANGenerator,
    SPADEGenerator,
)
from .mask_batches import MaskTranslationDataPreProcessor

__all__ = [
    'SCGAN', 'SPADE', 'GlobalGenerator', 'MaskCycleGAN', 'MaskPix2Pix',
    'MaskTranslationDataPreProcessor', 'MultiScalePatchDiscriminator',
    'Pix2PixHD', 'SCGANGenerator', 'SPADEGenerator'
]
