"""The processes between image latents and mask latents."""

from .brownian_bridge import BrownianBridge
from .diffusion import Diffusion
from .process import DIRECTIONS, Process, TrainingPoint
from .rectified_flow import RectifiedFlow
from .symmetric_flow import SymmetricFlow

__all__ = [
    'DIRECTIONS', 'BrownianBridge', 'Diffusion', 'Process', 'RectifiedFlow',
    'SymmetricFlow', 'TrainingPoint'
]
