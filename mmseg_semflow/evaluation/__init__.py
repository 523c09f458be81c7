"""Metrics of mask-to-image synthesis."""

from .base import SynthesisMetric
from .consistency import MaskConsistency
from .diversity import SampleDiversity
from .inception import InceptionDistance
from .perceptual import PerceptualDistance
from .round_trip import RoundTrip

__all__ = [
    'InceptionDistance', 'MaskConsistency', 'PerceptualDistance', 'RoundTrip',
    'SampleDiversity', 'SynthesisMetric'
]
