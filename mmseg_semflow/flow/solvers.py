"""Numerical solvers of the flow's ordinary differential equation."""

from typing import Callable, Dict

from torch import Tensor
from torchdiffeq import odeint

FIXED_STEP_SOLVERS: Dict[str, str] = dict(
    euler='euler', heun='heun2', rk4='rk4')
ADAPTIVE_SOLVERS: Dict[str, str] = dict(dopri5='dopri5')
SOLVERS: Dict[str, str] = {**FIXED_STEP_SOLVERS, **ADAPTIVE_SOLVERS}


def check_solver(solver: str) -> None:
    """Raise a ValueError if there is no solver of this name."""
    if solver not in SOLVERS:
        raise ValueError(
            f'solver must be one of {sorted(SOLVERS)}, but got {solver!r}')


def integrate(velocity: Callable[[Tensor, Tensor], Tensor],
              z: Tensor,
              times: Tensor,
              solver: str = 'euler',
              return_trajectory: bool = False,
              rtol: float = 1e-3,
              atol: float = 1e-3) -> Tensor:
    r"""Solve the flow's equation along a grid of times.

    .. math:: \frac{\mathrm{d} z}{\mathrm{d} t} = v(z, t), \quad z(t_0) = z

    SemFlow (Wang et al., NeurIPS 2024), Eq. 11 to 13. The grid alone sets
    the direction: increasing times lead from the image to the mask,
    decreasing ones from the mask to the image. A fixed-step solver takes one
    step between neighbouring times: with N + 1 times ``'euler'`` calls
    ``velocity`` N times, ``'heun'`` 2 N and ``'rk4'`` 4 N times.
    ``'dopri5'`` (the paper's RK45) chooses its own steps between the first
    and the last time, within ``rtol`` and ``atol``.

    Args:
        velocity (Callable): Maps the state z, shape (B, ...), and the flow
            time t, float32 of shape (B, ), to dz/dt of the shape of z.
        z (Tensor): State at the first time, shape (B, ...).
        times (Tensor): Strictly monotonic flow times, shape (N + 1, ).
        solver (str): ``'euler'``, ``'heun'``, ``'rk4'`` or ``'dopri5'``.
            Defaults to ``'euler'``.
        return_trajectory (bool): Whether to return the states at all times.
            Defaults to False.
        rtol (float): Relative tolerance of the adaptive solver. Defaults to
            1e-3.
        atol (float): Absolute tolerance of the adaptive solver. Defaults to
            1e-3.

    Returns:
        Tensor: The state at the last time, shape (B, ...), or, with
        ``return_trajectory``, at all times, shape (N + 1, B, ...).

    Raises:
        ValueError: If the solver is unknown or the times are fewer than two
            or not strictly monotonic.
    """
    check_solver(solver)
    steps = times.diff() if times.ndim == 1 else times[:0]
    if not len(steps) or not ((steps > 0).all() or (steps < 0).all()):
        raise ValueError('times must be a strictly monotonic sequence of at '
                         f'least two values, but got {times.tolist()}')

    def func(t: Tensor, state: Tensor) -> Tensor:
        return velocity(state, t.expand(len(state)))

    options = None
    if solver in FIXED_STEP_SOLVERS:
        options = dict(grid_constructor=lambda *_: times)
    outputs = times if return_trajectory else times[[0, -1]]
    states = odeint(
        func,
        z,
        outputs,
        rtol=rtol,
        atol=atol,
        method=SOLVERS[solver],
        options=options)
    return states if return_trajectory else states[-1]
