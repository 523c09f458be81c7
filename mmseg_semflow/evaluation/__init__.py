"""Metrics of both directions."""

from .base import SynthesisMetric
from .calibration import CalibrationError
from .consistency import MaskConsistency
from .detail import DetailRatio
from .diversity import NoiseGain, SampleDiversity
from .features import FeatureDistance
from .inception import InceptionDistance
from .judge import SegmentorJudge
from .perceptual import PerceptualDistance
from .round_trip import RoundTrip

__all__ = [
    'CalibrationError', 'DetailRatio', 'FeatureDistance', 'InceptionDistance',
    'MaskConsistency', 'NoiseGain', 'PerceptualDistance', 'RoundTrip',
    'SampleDiversity', 'SegmentorJudge', 'SynthesisMetric'
]
