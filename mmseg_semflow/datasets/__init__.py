"""Datasets and transforms, registered with mmsegmentation."""

from .camvid import CamVidDataset
from .seeded import SeededDataset, SeededSampler
from .toy_street import ToyStreetDataset
from .transforms import GeneratePseudoMask, PackSemFlowInputs, PerturbPseudoMask

__all__ = [
    'CamVidDataset', 'GeneratePseudoMask', 'PackSemFlowInputs',
    'PerturbPseudoMask', 'SeededDataset', 'SeededSampler', 'ToyStreetDataset'
]
