"""Images for masks: how they are made, read, written and shown."""

from .class_statistics import ClassStatistics
from .fusion import MultiResolutionFusion
from .style import LatentStatistics, Style, Styles, TextStyle, TokenStyle
from .synthesizer import ImageSampler, Synthesizer, image_and_labels

__all__ = [
    'ClassStatistics', 'ImageSampler', 'LatentStatistics', 'MultiResolutionFusion',
    'Style', 'Styles', 'Synthesizer', 'TextStyle', 'TokenStyle', 'image_and_labels'
]
