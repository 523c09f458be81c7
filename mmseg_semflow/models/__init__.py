"""SemFlow and its adapters to the toolboxes."""

from .segmentors import SemFlow, SemFlowDataPreProcessor
from .semflow_model import OneStepLoss, SemFlowModel

__all__ = ['OneStepLoss', 'SemFlow', 'SemFlowDataPreProcessor', 'SemFlowModel']
