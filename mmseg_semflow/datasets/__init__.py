"""Datasets and transforms, registered with mmsegmentation."""

from .cached_latents import CachedLatentsDataset
from .camvid import CamVidDataset
from .celebamask_hq import CelebAMaskHQDataset
from .gta5 import GTA5Dataset
from .layout import CheckedCityscapesDataset, CheckedCOCOStuffDataset, check_layout
from .rare_classes import RareClassSampler
from .seeded import SeededDataset, SeededSampler
from .shards import ParquetBackend, TarBackend
from .toy_street import ToyStreetDataset
from .transforms import (
    GeneratePseudoMask,
    PackSemFlowInputs,
    PasteRareObjects,
    PerturbPseudoMask,
)
from .unreadable import UnreadableImageError

__all__ = [
    'CachedLatentsDataset', 'CamVidDataset', 'CelebAMaskHQDataset',
    'CheckedCOCOStuffDataset', 'CheckedCityscapesDataset', 'GTA5Dataset',
    'GeneratePseudoMask', 'PackSemFlowInputs', 'ParquetBackend', 'PasteRareObjects',
    'PerturbPseudoMask', 'RareClassSampler', 'SeededDataset', 'SeededSampler',
    'TarBackend', 'ToyStreetDataset', 'UnreadableImageError', 'check_layout'
]
