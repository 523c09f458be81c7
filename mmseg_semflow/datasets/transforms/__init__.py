"""Data pipeline transforms of SemFlow."""

from .paste_objects import PasteRareObjects
from .pseudo_mask import GeneratePseudoMask, PackSemFlowInputs, PerturbPseudoMask

__all__ = [
    'GeneratePseudoMask', 'PackSemFlowInputs', 'PasteRareObjects', 'PerturbPseudoMask'
]
