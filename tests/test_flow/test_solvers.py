import math

import pytest
import torch

from mmseg_semflow.flow import (
    FIXED_STEP_SOLVERS,
    SOLVERS,
    integrate,
    uniform_times,
)

ENDS = [(0., 1.), (1., 0.)]
CALLS = dict(euler=1, heun=2, rk4=4)
ORDER = dict(euler=1, heun=2, rk4=4)


def exponential(z, t):
    return z


def final_error(solver, num_steps, start, end):
    z = torch.ones(2, 3, dtype=torch.float64)
    times = uniform_times(num_steps, start, end).double()
    found = integrate(exponential, z, times, solver)
    return (found - math.exp(end - start)).abs().max().item()


@pytest.mark.parametrize('ends', ENDS)
@pytest.mark.parametrize('solver', SOLVERS)
@pytest.mark.parametrize('num_steps', [1, 2, 7])
def test_constant_field_is_exact(solver, ends, num_steps):
    z, v = torch.randn(2, 4, 3, 5)
    found = integrate(lambda z, t: v, z, uniform_times(num_steps, *ends), solver)
    torch.testing.assert_close(found, z + (ends[1] - ends[0]) * v)


@pytest.mark.parametrize('ends', ENDS)
@pytest.mark.parametrize('solver', FIXED_STEP_SOLVERS)
def test_doubling_the_steps_gains_the_order(solver, ends):
    ratio = final_error(solver, 16, *ends) / final_error(solver, 32, *ends)
    assert ratio == pytest.approx(2**ORDER[solver], rel=0.1)


@pytest.mark.parametrize('ends', ENDS)
def test_adaptive_solver_keeps_its_tolerance(ends):
    assert final_error('dopri5', 1, *ends) < 1e-3


@pytest.mark.parametrize('ends', ENDS)
@pytest.mark.parametrize('solver', FIXED_STEP_SOLVERS)
@pytest.mark.parametrize('num_steps', [1, 2, 16, 30])
def test_number_of_network_calls(solver, ends, num_steps):
    seen = []

    def velocity(z, t):
        assert t.shape == (2, ) and t.dtype == torch.float32
        seen.append(t[0].item())
        return z

    integrate(velocity, torch.ones(2, 3), uniform_times(num_steps, *ends), solver)
    assert len(seen) == CALLS[solver] * num_steps
    if solver == 'euler':
        torch.testing.assert_close(
            torch.tensor(seen), uniform_times(num_steps, *ends)[:-1])


@pytest.mark.parametrize('ends', ENDS)
@pytest.mark.parametrize('solver', FIXED_STEP_SOLVERS)
def test_trajectory_of_fixed_steps_is_the_stability_polynomial(solver, ends):
    z = torch.ones(2, 3, dtype=torch.float64)
    times = uniform_times(8, *ends).double()
    states = integrate(exponential, z, times, solver, return_trajectory=True)
    h = (ends[1] - ends[0]) / 8
    growth = sum(h**i / math.factorial(i) for i in range(ORDER[solver] + 1))
    exact = growth**torch.arange(9, dtype=torch.float64)
    torch.testing.assert_close(states, exact.view(-1, 1, 1).expand_as(states))


@pytest.mark.parametrize('ends', ENDS)
def test_trajectory_of_the_adaptive_solver(ends):
    z = torch.ones(2, 3, dtype=torch.float64)
    times = uniform_times(8, *ends).double()
    states = integrate(exponential, z, times, 'dopri5', return_trajectory=True)
    exact = (times - times[0]).exp().view(-1, 1, 1).expand_as(states)
    torch.testing.assert_close(states, exact, rtol=1e-3, atol=1e-3)


def test_euler_follows_the_paper():
    """Eq. 12 and 13, written out."""
    def velocity(z, t):
        return torch.sin(3 * z) + t[:, None]

    z = forward = torch.randn(2, 3)
    for i in range(5):
        forward = forward + velocity(forward, torch.full((2, ), i / 5)) / 5
    reverse = z
    for i in range(5, 0, -1):
        reverse = reverse - velocity(reverse, torch.full((2, ), i / 5)) / 5
    torch.testing.assert_close(
        integrate(velocity, z, uniform_times(5, 0., 1.)), forward)
    torch.testing.assert_close(
        integrate(velocity, z, uniform_times(5, 1., 0.)), reverse)


@pytest.mark.parametrize('ends', ENDS)
@pytest.mark.parametrize('solver', SOLVERS)
def test_the_callback_sees_every_step(solver, ends):
    z = torch.randn(3, 2).T
    times = uniform_times(5, *ends)
    expected = integrate(exponential, z, times, solver, return_trajectory=True)
    seen = []
    options = dict(callback=lambda *args: seen.append(args))
    states = integrate(exponential, z, times, solver, True, **options)
    last = integrate(exponential, z, times, solver, **options)
    # The adaptive solver starts anew at every time, and may err anew.
    close = dict.fromkeys(('rtol', 'atol'),
                          0. if solver in FIXED_STEP_SOLVERS else 5e-3)
    torch.testing.assert_close(states, expected, **close)
    torch.testing.assert_close(last, expected[-1], **close)
    assert len(seen) == 10
    for number, (t, state) in enumerate(seen):
        assert t.shape == () and t == times[1 + number % 5]
        assert torch.equal(state, states[1 + number % 5])


@pytest.mark.parametrize('solver', FIXED_STEP_SOLVERS)
def test_the_callback_moves_nothing_in_memory(solver):
    """What a network computes may depend on that, by rounding."""
    z, seen = torch.randn(3, 2).T, []

    def velocity(z, t):
        seen.append(z.stride())
        return z

    for callback in (None, lambda t, state: None):
        integrate(velocity, z, uniform_times(3, 0., 1.), solver,
                  callback=callback)
    assert seen == 2 * seen[:len(seen) // 2]


@pytest.mark.parametrize('ends', ENDS)
@pytest.mark.parametrize('solver', SOLVERS)
def test_what_the_callback_returns_is_the_state(solver, ends):
    """Doubled after the second of three steps, on dz/dt = z."""
    z = torch.ones(2, 3, dtype=torch.float64)
    times = uniform_times(3, *ends).double()
    plain = integrate(exponential, z, times, solver, return_trajectory=True)
    states = integrate(
        exponential, z, times, solver, True,
        callback=lambda t, state: 2 * state if t == times[2] else None)
    close = dict.fromkeys(('rtol', 'atol'),
                          1e-9 if solver in FIXED_STEP_SOLVERS else 3e-3)
    factor = torch.tensor([1., 1., 2., 2.]).double().view(-1, 1, 1)
    torch.testing.assert_close(states, factor * plain, **close)


@pytest.mark.parametrize('ends', ENDS)
@pytest.mark.parametrize('solver', FIXED_STEP_SOLVERS)
def test_gradients_are_those_of_the_stability_polynomial(solver, ends):
    """On dz/dt = a z: d z_N / d z = R^N, d z_N / d a = N R^(N-1) R' z."""
    z = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    a = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    times = uniform_times(4, *ends).double()
    found = integrate(lambda z, t: a * z, z, times, solver)
    of_z, of_a = torch.autograd.grad(found.sum(), (z, a))
    h = (ends[1] - ends[0]) / 4
    rate = sum((a * h)**i / math.factorial(i) for i in range(ORDER[solver] + 1))
    slope, = torch.autograd.grad(rate, a, retain_graph=True)
    torch.testing.assert_close(of_z, (rate**4).expand_as(z))
    torch.testing.assert_close(of_a, 4 * rate**3 * slope * z.sum())


def test_bad_arguments():
    z = torch.ones(1, 2)
    with pytest.raises(ValueError, match=r"one of \['dopri5'.* got 'rk45'"):
        integrate(exponential, z, uniform_times(2, 0., 1.), 'rk45')
    for times in ([0.], [0., 0.], [0., 1., 0.5]):
        with pytest.raises(ValueError, match='strictly monotonic'):
            integrate(exponential, z, torch.tensor(times))


@pytest.mark.parametrize('num_steps', [1, 2, 3, 16, 30, 1000])
def test_uniform_times(num_steps):
    times = uniform_times(num_steps, 1., 0.)
    assert len(times) == num_steps + 1
    assert times[0] == 1 and times[-1] == 0
    torch.testing.assert_close(
        times.diff(), torch.full((num_steps, ), -1 / num_steps))


@pytest.mark.parametrize('num_steps', [0, -1, 2.5, '3', None])
def test_bad_number_of_steps(num_steps):
    with pytest.raises(ValueError, match=f'>= 1, but got {num_steps!r}'):
        uniform_times(num_steps, 0., 1.)
