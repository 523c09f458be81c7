"""Numerical solvers of the flow's ordinary differential equation."""

from typing import Callable, Dict, Optional

import torch
from torch import Tensor
from torchdiffeq import odeint

StepCallback = Callable[[Tensor, Tensor], Optional[Tensor]]
FIXED_STEP_SOLVERS: Dict[str, str] = dict(
    euler='euler', heun='heun2', rk4='rk4')
ADAPTIVE_SOLVERS: Dict[str, str] = dict(dopri5='dopri5')
SOLVERS: Dict[str, str] = {**FIXED_STEP_SOLVERS, **ADAPTIVE_SOLVERS}


def check_solver(solver: str) -> None:
    """Raise a ValueError if there is no solver of this name."""
    if solver not in SOLVERS:
        raise ValueError(
            f'solver must be one of {sorted(SOLVERS)}, but got {solver!r}')


def check_num_steps(num_steps: int) -> None:
    """Raise a ValueError if this is not a number of solver steps."""
    if not isinstance(num_steps, int) or num_steps < 1:
        raise ValueError(
            f'num_steps must be an integer >= 1, but got {num_steps!r}')


def uniform_times(num_steps: int,
                  start: float,
                  end: float,
                  device: Optional[torch.device] = None) -> Tensor:
    """Make an equidistant solver grid.

    From 0 to 1 it leads from image to mask (SemFlow, Eq. 12), from 1 to 0
    from mask to image (Eq. 13).

    Args:
        num_steps (int): Number of steps N, at least 1.
        start (float): First flow time, in [0, 1].
        end (float): Last flow time, in [0, 1].
        device (torch.device, optional): Device of the grid. Defaults to
            None, torch's default device.

    Returns:
        Tensor: float32 times, shape (N + 1, ).

    Raises:
        ValueError: If ``num_steps`` is not an integer of at least 1.
    """
    check_num_steps(num_steps)
    return torch.linspace(start, end, num_steps + 1, device=device)


def integrate(velocity: Callable[[Tensor, Tensor], Tensor],
              z: Tensor,
              times: Tensor,
              solver: str = 'euler',
              return_trajectory: bool = False,
              callback: Optional[StepCallback] = None,
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
    and the last time, within ``rtol`` and ``atol``; its error is a mean over
    the batch, which therefore bears on the steps.

    Args:
        velocity (Callable): Maps the state z, shape (B, ...), and the flow
            time t, float32 of shape (B, ), to dz/dt of the shape of z.
        z (Tensor): State at the first time, shape (B, ...).
        times (Tensor): Strictly monotonic flow times, shape (N + 1, ).
        solver (str): ``'euler'``, ``'heun'``, ``'rk4'`` or ``'dopri5'``.
            Defaults to ``'euler'``.
        return_trajectory (bool): Whether to return the states at all times.
            Defaults to False.
        callback (Callable, optional): Called with the flow time, a scalar,
            and the state, (B, ...), after every step from one of the times to
            the next; what it returns takes the place of the state, unless it
            is None. The adaptive solver then starts anew at every time.
            Defaults to None.
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

    def solve(state: Tensor, grid: Tensor, outputs: Tensor) -> Tensor:
        options = None
        if solver in FIXED_STEP_SOLVERS:
            options = dict(grid_constructor=lambda *_: grid)
        return odeint(
            func,
            state,
            outputs,
            rtol=rtol,
            atol=atol,
            method=SOLVERS[solver],
            options=options)

    if callback is None:
        states = solve(z, times, times if return_trajectory else times[[0, -1]])
        return states if return_trajectory else states[-1]
    trajectory = [z]
    for step in times.unfold(0, 2, 1):
        # In memory as without a callback: convolutions round by that.
        start = torch.empty_like(z).copy_(trajectory[-1])
        state = solve(start, step, step)[-1]
        changed = callback(step[1], state)
        trajectory.append(state if changed is None else changed)
    return torch.stack(trajectory) if return_trajectory else trajectory[-1]
