"""The mathematics of SemFlow, in torch and torchdiffeq alone."""

from .anchors import PseudoMaskCodec
from .bridge import BrownianBridgePath
from .noise import Generators, normal_like, seeded_generator
from .path import TIME_SAMPLINGS, PathSample, RectifiedFlowPath
from .perturbation import perturb
from .solvers import (
    ADAPTIVE_SOLVERS,
    FIXED_STEP_SOLVERS,
    SOLVERS,
    check_num_steps,
    check_solver,
    integrate,
    uniform_times,
)
from .tiling import average_windows, tile_velocity, window_ends

__all__ = [
    'ADAPTIVE_SOLVERS', 'FIXED_STEP_SOLVERS', 'SOLVERS', 'TIME_SAMPLINGS',
    'BrownianBridgePath', 'Generators', 'PathSample', 'PseudoMaskCodec',
    'RectifiedFlowPath', 'average_windows', 'check_num_steps', 'check_solver',
    'integrate', 'normal_like', 'perturb', 'seeded_generator', 'tile_velocity',
    'uniform_times', 'window_ends'
]
