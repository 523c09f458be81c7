"""Both directions of SemFlow from Python."""

from .inferencer import SemFlowInferencer
from .loading import load_model

__all__ = ['SemFlowInferencer', 'load_model']
