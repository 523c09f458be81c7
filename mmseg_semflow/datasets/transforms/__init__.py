"""Data pipeline transforms of SemFlow."""

from .loading import LoadAnnotations, LoadImageFromFile, UnreadableImageError
from .pseudo_mask import GeneratePseudoMask, PackSemFlowInputs, PerturbPseudoMask

__all__ = [
    'GeneratePseudoMask', 'LoadAnnotations', 'LoadImageFromFile',
    'PackSemFlowInputs', 'PerturbPseudoMask', 'UnreadableImageError'
]
