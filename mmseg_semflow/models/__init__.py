"""SemFlow and its adapters to the toolboxes.

That to mmagic, :mod:`mmseg_semflow.models.generators`, is imported only where
a config names it.
"""

from .bbdm_model import BBDMModel
from .data_preprocessor import SemFlowDataPreProcessor
from .dsm_model import DSMModel
from .pair_model import PairModel
from .segmentors import BBDM, DSM, SemFlow, SymmFlow
from .semflow_model import OneStepLoss, SemFlowModel
from .symmflow_model import SymmFlowModel
from .synthesizer import Synthesizer

__all__ = [
    'BBDM', 'DSM', 'BBDMModel', 'DSMModel', 'OneStepLoss', 'PairModel',
    'SemFlow', 'SemFlowDataPreProcessor', 'SemFlowModel', 'SymmFlow',
    'SymmFlowModel', 'Synthesizer'
]
