"""Metrics of mask-to-image synthesis."""

from .base import SynthesisMetric
from .consistency import MaskConsistency
from .diversity import SampleDiversity
from .features import FeatureDistance
from .inception import InceptionDistance
from .perceptual import PerceptualDistance
from .round_trip import RoundTrip

__all__ = [
    'FeatureDistance', 'InceptionDistance', 'MaskConsistency',
    'PerceptualDistance', 'RoundTrip', 'SampleDiversity', 'SynthesisMetric'
]
