"""The processes between image latents and mask latents."""

from .brownian_bridge import BrownianBridge
from .diffusion import Diffusion, ImageDiffusion
from .process import DIRECTIONS, Process, TrainingPoint
from .rectified_flow import RectifiedFlow
from .symmetric_flow import SymmetricFlow

__all__ = [
    'DIRECTIONS', 'BrownianBridge', 'Diffusion', 'ImageDiffusion', 'Process',
    'RectifiedFlow', 'SymmetricFlow', 'TrainingPoint'
]
