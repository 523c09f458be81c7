"""The losses of a training, each a line of the config."""

from .adversarial import LatentAdversarialLoss
from .features import FeatureLoss, LPIPSLoss
from .matching import MatchingLoss
from .one_step import AnchorRepulsionLoss, OneStepImageLoss, OneStepMapLoss
from .refiner import RefinerLoss
from .reflow import ReflowLoss
from .training_loss import TrainingLoss, TrainingStep

__all__ = [
    'AnchorRepulsionLoss', 'FeatureLoss', 'LPIPSLoss', 'LatentAdversarialLoss',
    'MatchingLoss', 'OneStepImageLoss', 'OneStepMapLoss', 'RefinerLoss', 'ReflowLoss',
    'TrainingLoss', 'TrainingStep'
]
