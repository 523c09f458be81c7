"""The mathematics of SemFlow, in torch and torchdiffeq alone."""

from .anchors import PseudoMaskCodec
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

__all__ = [
    'ADAPTIVE_SOLVERS', 'FIXED_STEP_SOLVERS', 'SOLVERS', 'TIME_SAMPLINGS',
    'PathSample', 'PseudoMaskCodec', 'RectifiedFlowPath', 'check_num_steps',
    'check_solver', 'integrate', 'perturb', 'uniform_times'
]
