"""Data pipeline transforms of SemFlow."""

from .pseudo_mask import GeneratePseudoMask, PackSemFlowInputs, PerturbPseudoMask

__all__ = ['GeneratePseudoMask', 'PackSemFlowInputs', 'PerturbPseudoMask']
