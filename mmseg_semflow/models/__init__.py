"""The composed model, its processes and losses.

Here is what needs neither mmsegmentation nor mmagic. The package imports the
adapter to the first, :mod:`mmseg_semflow.models.segmentors`; that to the second,
:mod:`mmseg_semflow.models.generators`, is imported only where a config names it.
"""

from .checkpoint_guard import CheckpointGuard
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
from .semflow_model import SemFlowModel

__all__ = [
    'BrownianBridge', 'CheckpointGuard', 'Diffusion', 'LatentRefiner', 'MatchingLoss',
    'OneStepImageLoss', 'OneStepMapLoss', 'Process', 'RectifiedFlow', 'SemFlowModel',
    'SymmetricFlow', 'TrainingLoss', 'TrainingPoint', 'TrainingStep'
]
