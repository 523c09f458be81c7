"""One contract of all processes: rectified and joint flow, bridge, diffusion."""

import pytest
import torch
from mmengine.registry import MODELS as ROOT_MODELS
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import nn

from mmseg_semflow.flow import (
    RectifiedFlowPath,
    octave_noise,
    seeded_generator,
    tile_network,
    uniform_times,
)
from mmseg_semflow.networks import build_scheduler, steps_of
from mmseg_semflow.pixels import to_uint8
from mmseg_semflow.synthesis import Synthesizer
from tiny import (
    CODEC,
    PROCESSES,
    network_cfg,
    process_cfg,
    segmentor_cfg,
    semflow_cfg,
)

KINDS = ('epsilon', 'sample', 'v_prediction')
FIXED = ('euler', 'heun', 'rk4')
BETAS = ('DDIMScheduler', 'DDPMScheduler')
# Of every process: the directions it serves, and its solvers of fixed steps.
SERVED = dict(
    semflow=(('image_to_mask', 'mask_to_image'), FIXED),
    symmflow=(('image_to_mask', 'mask_to_image'), FIXED),
    bbdm=(('mask_to_image', ), ('bridge', )),
    bbdm_segmentor=(('image_to_mask', ), ('bridge', )),
    dsm=(('image_to_mask', ), BETAS))
DIRECTIONS = [(name, direction) for name, (directions, _) in SERVED.items()
              for direction in directions]
SOLVERS = [(name, direction, solver) for name, direction in DIRECTIONS
           for solver in SERVED[name][1]]
# Alpha of every timestep, as SemFlow's Eq. 1 and Stable Diffusion 1.5 have it.
ALPHAS = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000).double()**2).cumprod(0)
STEPS = [1, 2, 7, 60]


def process_of(name, **kwargs):
    return ROOT_MODELS.build({**PROCESSES[name][0], **kwargs}).double()


def latents(count=2):
    return torch.randn(2, count, 3, 4, 5, dtype=torch.float64).unbind(0)


def grid(direction, num_steps):
    return uniform_times(
        num_steps, *((0., 1.) if direction == 'image_to_mask' else (1., 0.)))


def generators(count=2):
    return [
        seeded_generator(0, number, torch.zeros(1, dtype=torch.uint8))
        for number in range(count)
    ]


def broadcast(values):
    return values.view(-1, 1, 1, 1)


def alpha_of(t):
    return broadcast(ALPHAS[(t * 1000).round().long()])


class Exact(nn.Module):
    """A network that knows both ends, of a way in one direction."""

    num_train_timesteps = 1000

    def __init__(self, name, z0, z1, direction, kind='epsilon'):
        super().__init__()
        self.name, self.z0, self.z1, self.kind = name, z0, z1, kind
        self.to_mask = direction == 'image_to_mask'
        self.times, self.states, self.conditions = [], [], []
        self.noise = None

    def forward(self, state, t, condition=None):
        self.times.append(t[0].item())
        self.states.append(state)
        self.conditions.append(condition)
        return getattr(self, self.name.split('_')[0])(state, t)

    def semflow(self, state, t):
        return self.z1 - self.z0

    def symmflow(self, state, t):
        # The noise beside what is given is where that half of the state began;
        # beside what is to be found it may be any, zero here.
        if self.noise is None:
            self.noise = state.chunk(2, 1)[int(self.to_mask)]
        if self.to_mask:
            return torch.cat([-self.z0, self.z1 - self.noise], 1)
        return torch.cat([self.noise - self.z0, self.z1], 1)

    def bbdm(self, state, t):
        return state - (self.z1 if self.to_mask else self.z0)

    def dsm(self, state, t):
        x, condition = state.chunk(2, 1)
        assert torch.equal(condition, self.z0)
        alpha = alpha_of(t)
        epsilon = (x - alpha.sqrt() * self.z1) / (1 - alpha).sqrt()
        return dict(
            epsilon=epsilon,
            sample=self.z1,
            v_prediction=alpha.sqrt() * epsilon -
            (1 - alpha).sqrt() * self.z1)[self.kind]


# The contract, of the processes alone.


def test_every_process_is_served():
    assert SERVED.keys() == PROCESSES.keys()
    for name, (directions, solvers) in SERVED.items():
        process = process_of(name)
        assert process.directions == directions
        assert process.default_solver == solvers[0]
        assert all(process.has_fixed_steps(solver) for solver in solvers)
        for solver in solvers:
            process.check_sampling(3, solver)
    for name in ('semflow', 'symmflow'):
        assert not process_of(name).has_fixed_steps('dopri5')


@pytest.mark.parametrize('name', PROCESSES)
def test_a_training_point(name):
    """Shapes, and the target as a function of the state at its time."""
    process, (z0, z1) = process_of(name), latents(64)
    point = process.sample(z0, z1)
    assert point.t.shape == (64, ) and point.t.dtype == torch.float32
    assert 0 <= point.t.min() < 0.2 and 0.8 < point.t.max() <= 1
    inputs, outputs = PROCESSES[name][1]
    assert inputs == process.num_inputs and outputs == len(process.outputs)
    assert point.state.shape == (64, 3 * inputs, 4, 5)
    assert point.target.shape == (64, 3 * outputs, 4, 5)
    if name == 'symmflow':
        # What is learnt: each half moves along the line to its own end.
        t, (x, y) = broadcast(point.t.double()), point.state.chunk(2, 1)
        target = torch.cat([(x - z0) / t, (z1 - y) / (1 - t)], 1)
    else:
        target = Exact(name, z0, z1, process.directions[0])(
            point.state, point.t)
    torch.testing.assert_close(point.target, target, rtol=1e-3, atol=1e-4)


SLOPES = dict(
    semflow=lambda t, end: 1 - t if end == 'mask' else -t,
    symmflow=lambda t, end: 1 - t if end == 'mask' else -t,
    bbdm=lambda t, end: -torch.ones_like(t),
    epsilon=lambda t, end: -(1 / alpha_of(t) - 1).sqrt(),
    sample=lambda t, end: torch.ones_like(t),
    v_prediction=lambda t, end: -(1 - alpha_of(t)).sqrt())


@pytest.mark.parametrize('name, direction, kind', [
    *((name, direction, name.split('_')[0])
      for name, direction in DIRECTIONS if name != 'dsm'),
    *(('dsm', 'image_to_mask', kind) for kind in KINDS)
])
def test_the_estimate_of_an_end(name, direction, kind):
    """The end itself for the exact target, and linear in the error."""
    options = dict(prediction_type=kind) if name == 'dsm' else {}
    process, (z0, z1) = process_of(name, **options), latents(8)
    end = direction.rsplit('_', 1)[1]
    point = process.sample(z0, z1)
    found = process.estimate(point, point.target, end)
    torch.testing.assert_close(
        found, z1 if end == 'mask' else z0, rtol=1e-5, atol=1e-5)
    error = torch.randn_like(point.target)
    moved = process.estimate(point, point.target + error, end) - found
    if name == 'symmflow':
        error = error.chunk(2, 1)[end == 'mask']
    expected = SLOPES[kind](broadcast(point.t), end) * error
    torch.testing.assert_close(moved, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('name, end', [
    ('bbdm', 'mask'), ('bbdm_segmentor', 'image'), ('dsm', 'image')])
def test_an_end_that_is_not_learnt_has_no_estimate(name, end):
    process = process_of(name)
    point = process.sample(*latents())
    with pytest.raises(ValueError, match=f'alone, but estimate asks .*_to_{end}'):
        process.estimate(point, point.target, end)


@pytest.mark.parametrize('name, direction, solver, num_steps, kind', [
    *((name, direction, solver, num_steps, 'epsilon')
      for name, direction, solver in SOLVERS for num_steps in STEPS),
    *(('dsm', 'image_to_mask', solver, num_steps, 'epsilon')
      for solver in BETAS for num_steps in (61, 201)),
    *(('dsm', 'image_to_mask', solver, 7, kind)
      for solver in BETAS for kind in KINDS[1:]),
    *(('dsm', 'image_to_mask', solver, num_steps, 'epsilon')
      for solver in ('DDIMParallelScheduler', 'DPMSolverMultistepScheduler',
                     'EulerDiscreteScheduler', 'EulerAncestralDiscreteScheduler',
                     'UniPCMultistepScheduler') for num_steps in (4, 7))
])
def test_the_exact_network_leads_to_the_exact_end(name, direction, solver,
                                                  num_steps, kind):
    options = dict(prediction_type=kind) if name == 'dsm' else {}
    process, (z0, z1) = process_of(name, **options), latents()
    network = Exact(name, z0, z1, direction, kind)
    start, end = (z0, z1) if network.to_mask else (z1, z0)
    found = process.solve(network, start, grid(direction, num_steps), solver)
    torch.testing.assert_close(found, end, rtol=0, atol=2e-4)
    calls = dict(heun=2, rk4=4).get(solver, 1)
    assert len(network.times) == calls * num_steps
    first = 0.999 if name == 'dsm' else float(not network.to_mask)
    assert network.times[0] == pytest.approx(first)


@pytest.mark.parametrize('name, direction, solver', SOLVERS)
def test_a_trajectory_ends_at_the_result(name, direction, solver):
    process, z = process_of(name), latents()[0]
    times = grid(direction, 4)

    def network(state, t):
        return (state + broadcast(t)).sin()[:, :3 * len(process.outputs)]

    states = process.solve(
        network, z, times, solver, True, generators=generators())
    assert states.shape == (5, *z.shape)
    assert torch.equal(
        states[-1],
        process.solve(network, z, times, solver, generators=generators()))
    if name not in ('symmflow', 'dsm'):  # which begin at noise
        assert torch.equal(states[0], z)


@pytest.mark.parametrize('name, direction, solver', SOLVERS)
def test_the_callback_sees_every_step(name, direction, solver):
    process, z = process_of(name), latents()[0]
    times, seen = grid(direction, 4), []

    def network(state, t):
        return (state + broadcast(t)).sin()[:, :3 * len(process.outputs)]

    options = dict(solver=solver, return_trajectory=True)
    expected = process.solve(
        network, z, times, generators=generators(), **options)
    found = process.solve(
        network, z, times, generators=generators(),
        callback=lambda *args: seen.append(args), **options)
    assert torch.equal(found, expected)
    assert [t.item() for t, _ in seen] == times[1:].tolist()
    for (t, state), after in zip(seen, found[1:], strict=True):
        assert t.shape == ()
        if name == 'symmflow':  # both halves, image first
            assert state.shape == (2, 6, 4, 5)
            state = state.chunk(2, 1)[direction == 'image_to_mask']
        assert torch.equal(state, after)


@pytest.mark.parametrize('name, direction, solver', SOLVERS)
def test_what_the_callback_returns_is_the_state(name, direction, solver):
    process, (z0, z1) = process_of(name), latents()
    network = Exact(name, z0, z1, direction)
    times, other = grid(direction, 3), None

    def callback(t, state):
        nonlocal other
        if t == times[2]:
            other = torch.randn_like(state)
            return other
        return torch.full_like(state, 7.) if t == times[3] else None

    start = z0 if network.to_mask else z1
    states = process.solve(network, start, times, solver, True,
                           callback=callback)
    assert (states[-1] == 7).all()
    # The network goes on from there.
    state = network.states[2 * len(network.states) // 3]
    assert torch.equal(state[:, :other.shape[1]], other)
    if name == 'symmflow':
        other = other.chunk(2, 1)[network.to_mask]
    assert torch.equal(states[2], other)


@pytest.mark.parametrize('name, direction, solver', SOLVERS)
def test_gradients_equal_finite_differences(name, direction, solver):
    """Of the result by the latents and the network's weights, in float64."""
    process = process_of(name)
    z = torch.randn(1, 2, 1, 2, dtype=torch.float64, requires_grad=True)
    outputs, inputs = 2 * len(process.outputs), 2 * process.num_inputs
    weight = torch.randn(outputs, inputs, dtype=torch.float64) / 2

    def solve(z, weight):

        def network(state, t):
            mixed = torch.einsum('oi, bihw -> bohw', weight, state)
            return (mixed + broadcast(t)).tanh()

        return process.solve(
            network, z, grid(direction, 3), solver, generators=generators(1))

    assert torch.autograd.gradcheck(solve, (z, weight.requires_grad_()))


@pytest.mark.parametrize('solver', BETAS)
def test_any_number_of_steps_of_a_scheduler(solver):
    """From the noisiest timestep down, each once, whatever their number."""
    scheduler = build_scheduler(solver, **process_of('dsm').scheduler)
    for num_steps in (*range(1, 1001, 55), 61, 201, 400, 501, 999, 1000):
        pairs = torch.tensor(list(steps_of(scheduler, num_steps, 'cpu')))
        assert pairs.shape == (num_steps, 2)
        assert pairs[0, 0] == 999 and pairs[-1, 1] == -1
        assert torch.equal(pairs[1:, 0], pairs[:-1, 1])
        assert (pairs[:, 0] > pairs[:, 1]).all()
    with pytest.raises(ValueError):
        list(steps_of(scheduler, 1001, 'cpu'))


def test_noisy_latents_are_those_of_eq_1():
    """Their noise, by the closed form of the alphas, is standard normal."""
    process = process_of('dsm')
    z0, z1 = latents(4000)
    point = process.sample(z0, z1)
    x, condition = point.state.chunk(2, 1)
    assert torch.equal(condition, z0)
    alpha = alpha_of(point.t)
    noise = (x - alpha.sqrt() * z1) / (1 - alpha).sqrt()
    torch.testing.assert_close(noise, point.target, rtol=1e-3, atol=1e-4)
    assert noise.mean().abs() < 0.02
    assert noise.var().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize('name, start_fraction', [('semflow', 0.5),
                                                  ('symmflow', 0.25)])
def test_time_is_drawn_as_the_process_says(name, start_fraction):
    process = process_of(
        name, time_sampling='logit_normal', start_fraction=start_fraction)
    t = process.sample(*latents(4000)).t
    at_start = int(4000 * start_fraction)
    assert (t[:at_start] == 0).all() and (t[at_start:] > 0).all()
    # Logit-normal times have standard normal logits.
    logits = torch.logit(t[at_start:].double())
    assert logits.mean().abs() < 0.06
    assert logits.var().item() == pytest.approx(1, abs=0.1)


def test_the_grid_of_each_direction():
    """An exact solution of a field that depends on time alone."""
    process = process_of(
        'semflow', time_grid=dict(image_to_mask=(1, 2.), mask_to_image=(2., 1)))
    forward, backward = process.times(4, 0., 1.), process.times(4, 1., 0.)
    u = torch.linspace(0, 1, 5)
    torch.testing.assert_close(forward, 1 - (1 - u).sqrt())
    torch.testing.assert_close(backward, u.flip(0).sqrt())
    z = torch.zeros(1, 2, 3, 4)
    for times in (forward, backward):
        found = process.solve(lambda z, t: t.view(-1, 1, 1, 1).expand_as(z), z,
                              times, 'euler')
        expected = (times[:-1] * times.diff()).sum()
        torch.testing.assert_close(found, expected.expand_as(z))
    assert process_of('semflow', time_grid='logit_normal').time_grids == dict(
        image_to_mask='logit_normal', mask_to_image='logit_normal')


def test_noise_on_the_mask_latent():
    """The path ends at it; at t = 0 the target is its mean, in closed form."""
    process = process_of('semflow', mask_noise=0.7, start_fraction=0.5)
    z0, z1 = (z[:1].expand(4000, -1, -1, -1) for z in latents())
    point = process.sample(z0, z1)
    t, start = point.t.view(-1, 1, 1, 1).double(), slice(0, 2000)
    assert torch.equal(point.state[start], z0[start])
    assert torch.equal(point.target[start], (z1 - z0)[start])
    moving = slice(2000, None)
    noise = (point.target - (z1 - z0))[moving] / 0.7
    torch.testing.assert_close(
        point.state[moving],
        ((1 - t) * z0 + t * (z1 + z0 + point.target - z1))[moving])
    assert noise.mean().abs() < 0.01
    assert noise.var().item() == pytest.approx(1, abs=0.02)


def test_the_clean_target_at_the_start_has_the_same_optimum_and_less_variance():
    """Gradients of Eq. 10 at t = 0: equal in the mean over the noise, not in spread."""
    sigma, count = 0.7, 4000
    process = process_of('semflow', mask_noise=sigma, start_fraction=0.9999)
    z0, z1 = (z[:1].expand(count, -1, -1, -1) for z in latents())
    clean = process.sample(z0, z1)
    noisy = RectifiedFlowPath().sample(
        z0, z1 + octave_noise(z1, process.mask_noise), torch.zeros(count).double())
    assert torch.equal(clean.state, noisy.zt)

    def gradients(target):
        """Of the squared error of each sample, by the prediction, at any of it."""
        prediction = torch.full_like(target, 0.3, requires_grad=True)
        return torch.autograd.grad(
            (prediction - target).square().sum(), prediction)[0]

    one, other = gradients(clean.target), gradients(noisy.velocity)
    spread = 2 * sigma
    torch.testing.assert_close(
        other.mean(0), one[0], rtol=0, atol=5 * spread / count**0.5)
    assert (one == one[0]).all()
    assert other.std(0).mean().item() == pytest.approx(spread, rel=0.02)


def test_uniform_noise_on_the_mask_latent():
    """As wide as it says and no wider, in training and in synthesis."""
    process = process_of(
        'semflow', mask_noise=0.7, noise_density='uniform', end_fraction=0.999)
    zeros = torch.zeros(4000, 1, 3, 4)
    for noise in (process.sample(zeros, zeros).state[1:],
                  process.start_of_synthesis(zeros)):
        noise = noise / 0.7
        assert noise.mean().abs() < 0.02
        assert noise.var().item() == pytest.approx(1, abs=0.02)
        assert 1.7 < noise.abs().max() <= 3**0.5
        # Half of it lies within half of its width.
        assert (noise.abs() < 3**0.5 / 2).double().mean() == pytest.approx(0.5, abs=.01)
    expected = torch.stack([torch.rand(1, 3, 4, generator=g) for g in generators()])
    found = process.start_of_synthesis(zeros[:2], generators())
    torch.testing.assert_close(found, 0.7 * 12**0.5 * (expected - 0.5))


def test_uniform_noise_of_several_sizes():
    noise = octave_noise(torch.zeros(4000, 1, 5, 5), (0., 1.), density='uniform')
    torch.testing.assert_close(
        noise.var(0), torch.ones(1, 5, 5), rtol=0.1, atol=0)
    # At the corners as drawn, between four of them more like a normal one.
    assert noise[..., ::2, ::2].abs().max() <= 3**0.5
    assert 3**0.5 < noise[..., 1, 1].abs().max() <= 2 * 3**0.5


def test_noise_of_several_sizes():
    """Its deviation is the same everywhere, its structure as wide as it says."""
    sizes = (0.5, 0., 0., 0.8)
    z, zeros = torch.zeros(4000, 1, 12, 17), [torch.zeros(4000, 1, 12, 17)] * 2
    noise = octave_noise(z, sizes)
    torch.testing.assert_close(
        noise.var(0), torch.full((1, 12, 17), 0.25 + 0.64), rtol=0.12, atol=0)
    # Corners of squares share nothing but with what lies between them.
    expected = [0.64 / 0.89 * (8 - x) / (x**2 + (8 - x)**2)**0.5 for x in range(1, 9)]
    for line in (noise[:, 0, 0], noise[:, 0, :, 0]):
        related = torch.corrcoef(line.T)[0]
        torch.testing.assert_close(
            related[1:9], torch.tensor(expected), rtol=0, atol=0.06)
        assert (related[9:].abs() < 0.06).all()
    assert octave_noise(z[:2].bfloat16(), sizes).dtype == torch.bfloat16
    # A sample is that of its generator, whatever stands beside it in a batch.
    alone, pair = (octave_noise(torch.zeros(n, 3, 5, 6), sizes, generators()[-n:])
                   for n in (1, 2))
    assert torch.equal(alone[0], pair[1])
    # Training and synthesis have it.
    process = process_of('semflow', mask_noise=sizes, end_fraction=0.999)
    assert process.sample(*zeros).state.var() == pytest.approx(0.89, rel=0.03)
    assert process.start_of_synthesis(zeros[0]).var() == pytest.approx(0.89, rel=0.03)


def test_a_part_of_the_batch_meets_no_noise_between_the_ends():
    process = process_of(
        'semflow', mask_noise=0.7, start_fraction=0.25, clean_fraction=0.25,
        end_fraction=0.25)
    z0, z1 = (z[:1].expand(8, -1, -1, -1) for z in latents())
    point = process.sample(z0, z1)
    assert ((point.t > 0) & (point.t < 1)).tolist() == 2 * [False] + 4 * [True] + 2 * [
        False]
    assert torch.equal(point.target[:4], (z1 - z0)[:4])
    noise = (point.target - (z1 - z0))[4:].flatten(1)
    assert (noise.std(1) > 0.1).all()
    t = point.t.view(-1, 1, 1, 1)
    torch.testing.assert_close(point.state, z0 + t * point.target)


@pytest.mark.parametrize('solver', FIXED)
def test_synthesis_starts_at_the_noise_that_it_was_trained_with(solver):
    """A constant velocity carries it along; segmentation samples none."""
    process, (z, velocity) = process_of('semflow', mask_noise=0.7), latents()

    def network(z, t, condition=None):
        return velocity

    def solve(direction, **kwargs):
        return process.solve(network, z, grid(direction, 3), solver, **kwargs)

    noise = torch.stack([torch.randn(3, 4, 5, generator=g) for g in generators()])
    expected = z + 0.7 * noise.double() - velocity
    torch.testing.assert_close(
        solve('mask_to_image', generators=generators()), expected)
    torch.testing.assert_close(solve('image_to_mask'), z + velocity)
    assert process.stochastic == ('mask_to_image', )
    assert process_of('semflow').stochastic == ()


def test_both_directions_with_noise_on_the_mask():
    """Samples differ without a perturbation, and are those of their seed."""
    kwargs = process_cfg('semflow', dict(mask_noise=0.5),
                         codec=dict(CODEC, amplitude=0))
    model = MODELS.build(segmentor_cfg(**kwargs)).eval()
    labels = torch.randint(0, 5, (8, 8))
    one, again, other = (
        Synthesizer(model.semflow, 2, num_samples=2, seed=seed)(labels)
        for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert not torch.equal(one[0], one[1])
    # A trajectory ends at the sample of its seed.
    synthesizer = Synthesizer(model.semflow, 2)
    path = synthesizer.trajectory(synthesizer.perturbed(labels, 0), 1., 0.)
    assert torch.equal(path[-1], one[0])
    image = torch.rand(1, 3, 8, 8) * 2 - 1
    first, second = (model.semflow.image_to_mask(image, 2) for _ in range(2))
    assert torch.equal(first, second)


def test_other_noise_than_trained_with_is_refused():
    build = {
        noise: ROOT_MODELS.build(semflow_cfg(**process_cfg(
            'semflow', dict(mask_noise=noise)))) for noise in (0., 0.5, 0.6)}
    build[0.5].load_state_dict(build[0.5].state_dict())
    with pytest.raises(ValueError, match='process of other mask_noise: 0.5, but 0.6'):
        build[0.6].load_state_dict(build[0.5].state_dict())
    with pytest.raises(ValueError, match="it has no 'process.noise_of_masks'"):
        build[0.6].load_state_dict(build[0.].state_dict())
    octaves = ROOT_MODELS.build(semflow_cfg(**process_cfg(
        'semflow', dict(mask_noise=[0.5, 0.3]))))
    with pytest.raises(ValueError, match=r'other mask_noise: 0.5, but \[0.5, 0.3'):
        octaves.load_state_dict(build[0.5].state_dict())
    # The same noise by other words is the same.
    ROOT_MODELS.build(semflow_cfg(**process_cfg('semflow', dict(
        mask_noise=[0.5, 0.])))).load_state_dict(build[0.5].state_dict())
    uniform = ROOT_MODELS.build(semflow_cfg(**process_cfg(
        'semflow', dict(mask_noise=0.5, noise_density='uniform'))))
    uniform.load_state_dict(uniform.state_dict())
    with pytest.raises(ValueError, match=(
            r"it has no 'process.noise_is_uniform' \(process of other noise_density")):
        uniform.load_state_dict(build[0.5].state_dict())
    with pytest.raises(ValueError, match="'process.noise_is_uniform' is .* nothing in"):
        build[0.5].load_state_dict(uniform.state_dict())
    with pytest.raises(ValueError, match="'process.noise_of_masks' is .* nothing in"):
        build[0.].load_state_dict(build[0.5].state_dict())


@pytest.mark.parametrize('name, wrong, message', [
    ('semflow', dict(clean_fraction=-0.1), 'clean_fraction .* but got -0.1'),
    ('semflow', dict(start_fraction=0.5, clean_fraction=0.6),
     'clean_fraction must .* at most 1, but got 0.6'),
    *[('semflow', dict(mask_noise=value), 'mask_noise must be finite and >= 0, or a '
       f'list of such, but got {shown}') for value, shown in (
           (-0.1, '-0.1'), (float('nan'), 'nan'), ([0.5, -1], r'\[0.5, -1\]'),
           ([0.5, float('inf')], r'\[0.5, inf\]'), ([], r'\[\]'))],
    ('semflow', dict(noise_density='gauss'),
     r"one of \['normal', 'uniform'\], but got 'gauss'"),
    ('semflow', dict(time_sampling='cosine'), "one of .* got 'cosine'"),
    ('semflow', dict(time_grid=(2, 2)), r'one is 1, .* got \(2, 2\)'),
    ('semflow', dict(time_grid=dict(forward='uniform')), "among .* got 'forward'"),
    ('symmflow', dict(start_fraction=2), r'start_fraction must be in .* got 2'),
    ('bbdm', dict(direction='both'), "direction must be one of .* got 'both'"),
    ('bbdm', dict(eta=1.5), r'eta must be in \[0, 1\], but got 1.5'),
    ('bbdm', dict(max_variance=0.), 'max_variance must be positive, .* got 0.0'),
    ('dsm', dict(prediction_type='v'), "prediction_type must be .* got 'v'"),
    *(('dsm', dict(scheduler={key: 1}), f'must have keys of .* got {key!r}')
      for key in ('beta_schdule', 'prediction_type', 'num_train_timesteps'))
])
def test_settings_that_break_a_rule(name, wrong, message):
    with pytest.raises(ValueError, match=message):
        process_of(name, **wrong)


@pytest.mark.parametrize('name, num_steps, solver, message', [
    *((name, 0, SERVED[name][1][0], 'num_steps must be an integer >= 1')
      for name in PROCESSES),
    ('semflow', 1, 'bridge', 'solver must be one of'),
    ('symmflow', 1, 'bridge', 'solver must be one of'),
    ('bbdm', 1, 'euler', "must be 'bridge' for BrownianBridge"),
    ('dsm', 1, 'euler', "no scheduler 'euler'"),
    ('dsm', 1, 'DDIMSchedular', "no scheduler 'DDIMSchedular'"),
    ('dsm', 1, 'UNet2DConditionModel', 'no scheduler'),
    *(('dsm', 1, solver, 'does not remove the noise')
      for solver in ('SchedulerMixin', 'DDIMInverseScheduler',
                     'RePaintScheduler', 'EDMEulerScheduler')),
    ('dsm', 1001, 'DDIMScheduler',
     'at most num_train_timesteps=1000, but got 1001'),
    # Of several network calls per step.
    ('dsm', 4, 'HeunDiscreteScheduler', 'for num_steps=4: it must take one'),
    ('dsm', 61, 'UniPCMultistepScheduler', 'for num_steps=61: it must take one')
])
def test_sampling_that_a_process_cannot_do(name, num_steps, solver, message):
    with pytest.raises(ValueError, match=message):
        process_of(name).check_sampling(num_steps, solver)


# In a model.


def build(name, **kwargs):
    torch.manual_seed(0)
    model = ROOT_MODELS.build(semflow_cfg(**process_cfg(name, **kwargs)))
    # A fresh UNet ends in small numbers: make its predictions matter.
    nn.init.normal_(model.network.unet.conv_out.weight, std=0.3)
    return model


@pytest.fixture(scope='module')
def models():
    """One model of every process, which no test changes for long."""
    return {name: build(name).eval() for name in PROCESSES}


def batch(model, count=2, size=(16, 24)):
    torch.manual_seed(1)
    labels = torch.randint(0, 5, (count, *size))
    labels[:, :4] = 255
    levels = model.codec.encode(labels)
    return torch.rand(count, 3, *size) * 2 - 1, model.codec.normalize(levels), labels


@pytest.fixture
def swap(monkeypatch):
    """Put another network into a model, for one test."""

    def swap(model, network):
        monkeypatch.setitem(model._modules, 'network', network)
        return network

    return swap


@pytest.mark.parametrize('name, direction', DIRECTIONS)
def test_a_model_without_loss_makes_no_error(models, swap, name, direction):
    model = models[name]
    images, pseudo_masks, labels = batch(model)
    z0, z1 = model.encode_pair(images, pseudo_masks)
    network = swap(model, Exact(name, z0, z1, direction))
    if name != 'symmflow':  # whose noise differs from point to point
        losses = model.loss(images, pseudo_masks, labels)
        assert losses.keys() == {f'loss_{part}' for part in model.process.outputs}
        assert all(loss < 1e-6 for loss in losses.values())
    network.times.clear()
    source, target = (images, pseudo_masks) if network.to_mask else (
        pseudo_masks, images)
    found = getattr(model, direction)(source, 7)
    torch.testing.assert_close(found, target, atol=2e-3, rtol=0)
    assert len(network.times) == 7


@pytest.mark.parametrize('name', PROCESSES)
def test_gradients_of_the_loss_reach_every_weight(models, name):
    model = models[name]
    model.zero_grad()
    losses = model.loss(*batch(model))
    assert all(key.startswith('loss') for key in losses)
    sum(losses.values()).backward()
    for key, weight in model.network.named_parameters():
        assert weight.grad is not None and weight.grad.isfinite().all(), key


class Functional(nn.Module):
    """A network with given weights."""

    def __init__(self, network, weights):
        super().__init__()
        self.network, self.weights = network, weights

    def forward(self, *args):
        return torch.func.functional_call(self.network, self.weights, args)


@pytest.mark.parametrize('name, direction, solver', SOLVERS)
def test_a_model_is_differentiated_through_sampling(models, swap, name,
                                                    direction, solver):
    """By pixels and all weights: along a line, the finite difference."""
    model, network = models[name], models[name].network
    num_steps = 1 if solver in ('heun', 'rk4') else 2
    pixels = batch(model, 1, (8, 12))[direction == 'mask_to_image']
    start = dict(network.named_parameters(), pixels=pixels)
    line = {key: x.detach().std() * torch.randn_like(x) for key, x in start.items()}
    score = torch.randn_like(pixels)

    def total(tensors):
        tensors = dict(tensors)
        pixels = tensors.pop('pixels')
        swap(model, Functional(network, tensors))
        found = getattr(model, direction)(
            pixels, num_steps, solver, generators=generators(1))
        return (score.double() * found).sum()

    leaves = {key: x.detach().requires_grad_() for key, x in start.items()}
    grads = dict(zip(leaves, torch.autograd.grad(
        total(leaves), list(leaves.values()), allow_unused=True), strict=True))
    missing = {key for key, grad in grads.items() if grad is None or not grad.any()}
    # With a null prompt of zeros the attention to it has no say.
    assert all('attn2' in key or 'norm2' in key for key in missing), missing
    slope = sum((grads[key].double() * line[key]).sum()
                for key in grads.keys() - missing)
    with torch.no_grad():
        ends = [
            total({key: x + step * line[key] for key, x in start.items()})
            for step in (-1e-3, 1e-3)
        ]
    difference = (ends[1] - ends[0]).item() / 2e-3
    assert slope.item() == pytest.approx(difference, rel=3e-3)


class Conditioned(nn.Module):
    """A network that looks at a cell alone, and at what it is told of it."""

    num_train_timesteps = 1000

    def __init__(self, outputs, fixed=None):
        super().__init__()
        self.channels, self.fixed = 12 * outputs, fixed

    def forward(self, state, t, condition=None):
        told = self.fixed or condition
        found = (state + broadcast(t)).sin()[:, :self.channels]
        return found * told['layout'] + broadcast(told['style'])


@pytest.mark.parametrize('name, direction', DIRECTIONS)
def test_a_condition_reaches_the_network(models, swap, name, direction):
    """As if the network had always known it, in losses, solvers and tiles."""
    model, outputs = models[name], PROCESSES[name][1][1]
    inputs = batch(model)
    pixels = inputs[direction == 'mask_to_image']
    condition = dict(layout=torch.randn(1, 1, 8, 12), style=torch.randn(2))

    def move(wrap=None, **kwargs):
        return getattr(model, direction)(
            pixels, 3, generators=generators(), wrap=wrap, **kwargs)

    def loss(**kwargs):
        torch.manual_seed(2)
        return sum(model.loss(*inputs, **kwargs).values())

    swap(model, Conditioned(outputs, condition))
    expected_loss, expected = loss(), move()
    swap(model, Conditioned(outputs))
    assert torch.equal(loss(condition=condition), expected_loss)
    assert torch.equal(move(condition=condition), expected)
    other = dict(condition, style=condition['style'] + 1)
    assert not torch.equal(move(condition=other), expected)
    tiled = move(
        lambda network: tile_network(network, (4, 8), (3, 4)),
        condition=condition)
    torch.testing.assert_close(tiled, expected)


@pytest.mark.parametrize('name, direction', DIRECTIONS)
def test_tiles(models, name, direction):
    model = models[name]
    pixels = batch(model, size=(24, 32))[direction == 'mask_to_image']

    def move(**kwargs):
        return getattr(model, direction)(
            pixels, 2, generators=generators(), **kwargs)

    whole = move()
    one = move(wrap=lambda network: tile_network(network, (12, 16), (6, 8)))
    assert torch.equal(one, whole)
    tiled = move(wrap=lambda network: tile_network(network, (8, 8), (4, 8)))
    assert tiled.shape == whole.shape and not torch.equal(tiled, whole)


@pytest.mark.parametrize('name, direction', DIRECTIONS)
def test_the_callback_of_a_model(models, name, direction):
    """Latents on the way, of which the result is decoded."""
    model, seen = models[name], []
    pixels = batch(model)[direction == 'mask_to_image']
    found = getattr(model, direction)(
        pixels, 3, generators=generators(),
        callback=lambda *args: seen.append(args))
    assert torch.equal(
        found, getattr(model, direction)(pixels, 3, generators=generators()))
    assert [t.item() for t, _ in seen] == grid(direction, 3)[1:].tolist()
    last = seen[-1][1]
    if name == 'symmflow':
        last = last.chunk(2, 1)[direction == 'image_to_mask']
    assert torch.equal(model.autoencoder.decode(last), found)


@pytest.mark.parametrize('name', PROCESSES)
def test_void_counts_for_nothing_if_asked_to(models, swap, name):
    model, outputs = models[name], PROCESSES[name][1][1]
    images, pseudo_masks, labels = batch(model)
    network = swap(model, nn.Identity())
    network.forward = lambda zt, t, condition: zt[:, :12 * outputs].square()
    loss, = model.losses
    for ignore_void in (False, True):
        loss.ignore_void = ignore_void
        found = []
        for void_level in (-1., 1.):
            changed = pseudo_masks.clone()
            changed[:, :, :4] = void_level
            torch.manual_seed(2)
            found.append(sum(model.loss(images, changed, labels).values()))
        assert torch.equal(*found) == ignore_void
    loss.ignore_void = False


@pytest.mark.parametrize('name, direction', [
    ('dsm', 'mask_to_image'), ('bbdm', 'image_to_mask'),
    ('bbdm_segmentor', 'mask_to_image')])
def test_one_way_processes(models, name, direction):
    other = models[name].process.directions[0]
    with pytest.raises(ValueError, match=f'learns {other} alone, but transport '
                       f'asks for {direction}'):
        getattr(models[name], direction)(torch.zeros(1, 3, 16, 16), 1)


@pytest.mark.parametrize('name', PROCESSES)
def test_another_number_of_channels(name):
    process, (inputs, _) = PROCESSES[name]
    with pytest.raises(
            ValueError,
            match=f'{process["type"]} takes {inputs} of them: unet.in_channels '
            f'of the network must be {12 * inputs}, but got 4'):
        build(name, network=network_cfg(channels=4))


def test_outputs_of_another_number():
    with pytest.raises(ValueError, match='SymmetricFlow takes 2 of them: '
                       'unet.out_channels of the network must be 24, but got 12'):
        build('symmflow', network=network_cfg((2, 1)))


def test_timesteps_of_another_number():
    with pytest.raises(ValueError, match='network, 1000, but got 500 in the proc'):
        build('dsm', process=dict(num_train_timesteps=500))


@pytest.mark.parametrize('name', ['symmflow', 'bbdm', 'bbdm_segmentor', 'dsm'])
def test_preconditioning_is_for_velocities_of_one_latent(name):
    wrapper = dict(type='EndStdPreconditioning', end_std=(0.5, 1.))
    with pytest.raises(ValueError, match='networks that predict velocity, but '
                       f'that of {PROCESSES[name][0]["type"]} predicts .*: leave'):
        build(name, wrappers=[wrapper])


@pytest.mark.parametrize('source, target, process, message', [
    ('bbdm', 'bbdm_segmentor', {},
     r'bridge of other .*: \[0.0, 0.5\], but \[1.0, 0.5\]'),
    ('bbdm', 'bbdm', dict(max_variance=1.), 'bridge of other'),
    ('dsm', 'dsm', dict(scheduler=dict(beta_end=0.02)), 'of other alphas'),
    ('dsm', 'dsm', dict(prediction_type='sample'), 'prediction_type of other'),
    ('semflow', 'bbdm', {}, "not a checkpoint of .* has no 'process.bridge'"),
    ('bbdm', 'semflow', {}, "'process.bridge' is .* and nothing in the config"),
])
def test_a_checkpoint_of_another_training(models, source, target, process, message):
    model = build(target, process=process)
    with pytest.raises(ValueError, match=message):
        model.load_state_dict(models[source].state_dict(), strict=False)


def test_a_checkpoint_in_bfloat16_is_the_same_training():
    weights = build('dsm').bfloat16().state_dict()
    model = build('dsm')
    alphas = model.process.alphas.clone()
    model.load_state_dict(weights)
    assert torch.equal(model.process.alphas, alphas)
    with pytest.raises(ValueError, match='of other alphas'):
        build('dsm', process=dict(scheduler=dict(
            beta_end=0.02))).load_state_dict(weights)


# In segmentors and synthesizers.


def image_diffusion(kind='epsilon'):
    return ROOT_MODELS.build(
        dict(type='ImageDiffusion', prediction_type=kind)).double()


@pytest.mark.parametrize('kind', KINDS)
def test_images_are_diffused_whatever_the_mask(kind):
    """As Stable Diffusion was trained: the noise of an image latent alone."""
    process = image_diffusion(kind)
    z0, z1 = latents(3)
    point = process.sample(z0, torch.full_like(z1, torch.nan))
    alpha = alpha_of(point.t)
    noise = (point.state - alpha.sqrt() * z0) / (1 - alpha).sqrt()
    expected = dict(
        epsilon=noise, sample=z0,
        v_prediction=alpha.sqrt() * noise - (1 - alpha).sqrt() * z0)[kind]
    torch.testing.assert_close(point.target, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        process.estimate(point, point.target, 'image'), z0, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match='learns mask_to_image alone'):
        process.estimate(point, point.target, 'mask')


def test_the_exact_denoiser_leads_to_the_image():
    process = image_diffusion()
    z0, z1 = latents()

    def network(x, t, condition=None):
        alpha = alpha_of(t)
        return (x - alpha.sqrt() * z0) / (1 - alpha).sqrt()

    found = process.solve(
        network, z1, grid('mask_to_image', 7), 'DDIMScheduler',
        generators=generators())
    torch.testing.assert_close(found, z0, rtol=1e-3, atol=1e-3)


def test_a_segmentor_trains_what_leads_to_no_masks():
    torch.manual_seed(0)
    parts = dict(process=dict(type='ImageDiffusion'))
    with pytest.raises(ValueError, match='but SemFlow asks for image_to_mask'):
        MODELS.build(segmentor_cfg(**parts))
    model = MODELS.build(segmentor_cfg(dict(mode='none'), **parts))
    images = torch.rand(2, 3, 24, 32)
    model.semflow.loss(images, images, torch.zeros(2, 24, 32).long())[
        'loss_denoise'].backward()
    assert model.semflow.network.unet.conv_out.weight.grad.any()
    with pytest.raises(ValueError, match='transport asks for image_to_mask'):
        model.predict(images)
    # Its weights are those of a model of SemFlow: they make its base.
    other = MODELS.build(segmentor_cfg())
    other.semflow.network.load_state_dict(model.semflow.network.state_dict())


def segmentor(name, test_cfg=None):
    torch.manual_seed(0)
    model = MODELS.build(segmentor_cfg(test_cfg, **process_cfg(name)))
    nn.init.normal_(model.semflow.network.unet.conv_out.weight, std=0.3)
    return model.eval()


def test_a_segmentor_of_the_other_direction():
    with pytest.raises(ValueError, match='this BrownianBridge learns '
                       'mask_to_image alone, but SemFlow asks for image_to_mask'):
        segmentor('bbdm')


@pytest.mark.parametrize('name', [
    name for name, direction in DIRECTIONS if direction == 'image_to_mask'])
def test_a_segmentor_takes_the_solver_of_its_process(name):
    model = segmentor(name)
    assert model.test_cfg.solver == SERVED[name][1][0]
    with pytest.raises(ValueError, match='solver|scheduler'):
        segmentor(name, dict(solver='rk45'))


def labels_of(model, images):
    samples = [SegDataSample() for _ in images]
    return torch.cat([
        sample.pred_sem_seg.data for sample in model.predict(images, samples)])


@pytest.mark.parametrize('name, solver', [
    ('dsm', 'DDIMScheduler'), ('dsm', 'DDPMScheduler'),
    ('bbdm_segmentor', 'bridge'), ('symmflow', 'euler')])
def test_masks_depend_on_the_seed_and_not_on_the_batch(name, solver):
    model = segmentor(name, dict(num_steps=3, solver=solver))
    images = torch.rand(3, 3, 16, 24) * 2 - 1
    torch.manual_seed(1)
    together = labels_of(model, images)
    torch.manual_seed(2)
    alone = torch.cat([labels_of(model, image[None]) for image in images])
    assert torch.equal(together, alone)
    # The noise of an image is that of its pixels.
    expected = model.semflow.image_to_mask(images, 3, solver, generators=[
        seeded_generator(0, 0, to_uint8(image)) for image in images])
    assert torch.equal(model.predict_map(images), expected)
    model.test_cfg.seed = 1
    assert not torch.equal(together, labels_of(model, images))


def test_masks_of_semflow_do_not_depend_on_a_seed():
    model = segmentor('semflow')
    images = torch.rand(2, 3, 16, 24) * 2 - 1
    first = model.predict_map(images)
    model.test_cfg.seed = 1
    torch.manual_seed(7)
    assert torch.equal(first, model.predict_map(images))


@pytest.mark.parametrize('name', ['bbdm', 'symmflow'])
def test_images_differ_without_perturbation_too(name):
    model = build(name, codec=dict(CODEC, amplitude=0))
    labels = batch(model)[2][0]
    synthesizer = Synthesizer(model, num_steps=3, num_samples=2)
    images = synthesizer(labels)
    assert torch.equal(images, synthesizer(labels))
    assert not torch.equal(images[0], images[1])
