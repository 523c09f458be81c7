"""Data pipeline transforms of SemFlow."""

from .corrupt import Corrupt
from .paste_objects import PasteRareObjects
from .pseudo_mask import GeneratePseudoMask, PackSemFlowInputs, PerturbPseudoMask

__all__ = [
    'Corrupt', 'GeneratePseudoMask', 'PackSemFlowInputs', 'PasteRareObjects',
    'PerturbPseudoMask'
]
