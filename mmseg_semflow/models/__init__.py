"""The composed model, its processes and losses, and its adapters.

That to mmagic, :mod:`mmseg_semflow.models.generators`, is imported only where
a config names it.
"""

from .checkpoint_guard import CheckpointGuard
from .data_preprocessor import SemFlowDataPreProcessor
from .losses import (
    MatchingLoss,
    OneStepImageLoss,
    OneStepMapLoss,
    TrainingLoss,
    TrainingStep,
)
from .processes import (
    BrownianBridge,
    Diffusion,
    Process,
    RectifiedFlow,
    SymmetricFlow,
    TrainingPoint,
)
from .refiner import LatentRefiner
from .segmentors import SemFlow
from .semflow_model import SemFlowModel

__all__ = [
    'BrownianBridge', 'CheckpointGuard', 'Diffusion', 'LatentRefiner', 'MatchingLoss',
    'OneStepImageLoss', 'OneStepMapLoss', 'Process',
    'RectifiedFlow', 'SemFlow', 'SemFlowDataPreProcessor', 'SemFlowModel',
    'SymmetricFlow', 'TrainingLoss', 'TrainingPoint', 'TrainingStep'
]
