"""Adapters to mmsegmentation."""

from .data_preprocessor import SemFlowDataPreProcessor
from .semflow import PseudoMaskLogits, SemFlow

__all__ = ['PseudoMaskLogits', 'SemFlow', 'SemFlowDataPreProcessor']
