"""The mathematics of SemFlow, in torch and torchdiffeq alone."""

from .anchors import PseudoMaskCodec, check_labels
from .bridge import BrownianBridgePath
from .noise import NOISES, Generators, normal_like, octave_noise, seeded_generator
from .path import PathSample, RectifiedFlowPath, TimeDensity, time_quantile
from .perturbation import perturb
from .solvers import (
    ADAPTIVE_SOLVERS,
    FIXED_STEP_SOLVERS,
    SOLVERS,
    StepCallback,
    check_num_steps,
    check_solver,
    integrate,
    uniform_times,
)
from .tiling import (
    Condition,
    Network,
    average_windows,
    check_tiling,
    tile_network,
    window_ends,
)

__all__ = [
    'ADAPTIVE_SOLVERS', 'FIXED_STEP_SOLVERS', 'NOISES', 'SOLVERS',
    'BrownianBridgePath', 'Condition', 'Generators', 'Network', 'PathSample',
    'PseudoMaskCodec', 'RectifiedFlowPath', 'StepCallback', 'TimeDensity',
    'average_windows', 'check_labels', 'check_num_steps', 'check_solver',
    'check_tiling', 'integrate', 'normal_like', 'octave_noise', 'perturb',
    'seeded_generator', 'tile_network', 'time_quantile', 'uniform_times', 'window_ends'
]
