"""Datasets and transforms, registered with mmsegmentation."""

from .cached_latents import CachedLatentsDataset
from .camvid import CamVidDataset
from .toy_street import ToyStreetDataset
from .transforms import GeneratePseudoMask, PackSemFlowInputs, PerturbPseudoMask

__all__ = [
    'CachedLatentsDataset', 'CamVidDataset', 'GeneratePseudoMask',
    'PackSemFlowInputs', 'PerturbPseudoMask', 'ToyStreetDataset'
]
