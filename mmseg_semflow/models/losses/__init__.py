"""The losses of a training, each a line of the config."""

from .features import FeatureLoss
from .matching import MatchingLoss
from .one_step import OneStepImageLoss, OneStepMapLoss
from .probe import ProbedMapLoss
from .training_loss import TrainingLoss, TrainingStep

__all__ = [
    'FeatureLoss', 'MatchingLoss', 'OneStepImageLoss', 'OneStepMapLoss',
    'ProbedMapLoss', 'TrainingLoss', 'TrainingStep'
]
