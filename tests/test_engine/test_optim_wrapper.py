"""Mixed precision by mmengine's wrapper, on hosts without a GPU too."""

import copy

import pytest
import torch
from mmengine._strategy import FSDPStrategy
from mmengine.optim import AmpOptimWrapper
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler

from mmseg_semflow.engine import (
    AutocastOptimWrapper,
    PartialFSDPStrategy,
    optim_wrapper,
)


@pytest.fixture(autouse=True)
def _on_a_cpu(monkeypatch):
    monkeypatch.setattr(optim_wrapper, 'get_device', lambda: 'cpu')


@pytest.fixture
def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))


def build(model, kind='AutocastOptimWrapper', **kwargs):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    if kind == 'AutocastOptimWrapper':
        kwargs = {'dtype': 'float32', **kwargs}
    # The wrapper takes its dicts apart.
    return OPTIM_WRAPPERS.build(
        dict(type=kind, optimizer=optimizer, **copy.deepcopy(kwargs)))


def inputs(number):
    return torch.randn(6, 3, generator=torch.Generator().manual_seed(number))


def step(model, wrapper, batch):
    """One iteration as models run it, with large gradients."""
    with wrapper.optim_context(model):
        loss = 100 * model(batch).square().mean()
    wrapper.update_params(loss)


def train(model, wrapper, numbers=range(4)):
    for number in numbers:
        step(model, wrapper, inputs(number))
    return copy.deepcopy(model.state_dict())


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


def test_mmengine_keeps_its_own_wrapper():
    assert OPTIM_WRAPPERS.get('AmpOptimWrapper') is AmpOptimWrapper
    assert OPTIM_WRAPPERS.get('AutocastOptimWrapper') is AutocastOptimWrapper
    assert issubclass(AutocastOptimWrapper, AmpOptimWrapper)


@pytest.mark.parametrize('options', [
    {}, dict(clip_grad=dict(max_norm=0.5)),
    dict(clip_grad=dict(type='value', clip_value=0.01)),
    dict(accumulative_counts=2),
    dict(accumulative_counts=2, clip_grad=dict(max_norm=0.5))
])
def test_float32_is_the_plain_wrapper(model, options):
    """Bit for bit, whatever stands about the scaling of the loss."""
    other = copy.deepcopy(model)
    wrapper = build(
        model, loss_scale=dict(init_scale=2.**10), use_fsdp=True, **options)
    found = train(model, wrapper)
    assert_equal(found, train(other, build(other, 'OptimWrapper', **options)))


@pytest.mark.parametrize('max_norm', [0.5, 1e6])
def test_gradients_are_clipped_by_their_norm(model, max_norm):
    wrapper = build(model, clip_grad=dict(max_norm=max_norm))
    norms = []

    def look(optimizer, args, kwargs):
        grads = [p.grad for p in model.parameters()]
        norms.append(torch.stack([g.norm() for g in grads]).norm().item())

    wrapper.optimizer.register_step_pre_hook(look)
    step(model, wrapper, inputs(0))
    norm, = norms
    if max_norm < 1:
        assert norm == pytest.approx(max_norm, rel=1e-4)
    else:
        assert 1 < norm < max_norm


def test_accumulated_halves_are_the_whole_batch(model):
    other = copy.deepcopy(model)
    batch = inputs(0)
    wrapper = build(model, accumulative_counts=2)
    start = copy.deepcopy(model.state_dict())
    step(model, wrapper, batch[:3])
    assert_equal(model.state_dict(), start)
    step(model, wrapper, batch[3:])
    step(other, build(other), batch)
    for key, value in other.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value)


def test_state_makes_a_round_trip(model):
    first = build(model, clip_grad=dict(max_norm=1.))
    train(model, first, range(3))
    state = copy.deepcopy(first.state_dict())
    assert state['loss_scaler'] == {}
    other = copy.deepcopy(model)
    expected = train(model, first, range(3, 6))
    second = build(other, clip_grad=dict(max_norm=1.))
    second.load_state_dict(state)
    assert_equal(train(other, second, range(3, 6)), expected)


def test_state_of_others(model):
    """Of a GPU with a scaler, and of a wrapper that knows none."""
    plain = build(model, 'OptimWrapper')
    train(model, plain)
    scaler = dict(scale=1024., growth_factor=2., backoff_factor=0.5,
                  growth_interval=2000, _growth_tracker=3)
    for state in (plain.state_dict(),
                  dict(plain.state_dict(), loss_scaler=scaler)):
        wrapper = build(copy.deepcopy(model))
        wrapper.load_state_dict(copy.deepcopy(state))
        found = wrapper.optimizer.state_dict()['state']
        for number, moments in plain.optimizer.state_dict()['state'].items():
            assert_equal(found[number], moments)
        assert wrapper.loss_scaler.scale(torch.ones(())) == 1


@pytest.mark.parametrize('dtype, known, expected', [
    ('float32', dict(avx512_bf16=True), torch.float32),
    ('bfloat16', {}, torch.bfloat16),
    (None, dict(avx512_bf16=True), torch.bfloat16),
    (None, dict(amx_bf16=True, avx512_bf16=False), torch.bfloat16),
    (None, dict(avx2=True, avx512_bf16=False), torch.float32),
])
def test_bfloat16_where_the_cpu_computes_in_it(model, monkeypatch, dtype, known,
                                               expected):
    monkeypatch.setattr(
        torch.cpu, 'get_capabilities', lambda: known, raising=False)
    dtypes = []
    model[0].register_forward_hook(
        lambda module, args, out: dtypes.append(out.dtype))
    wrapper = build(model, dtype=dtype)
    train(model, wrapper, range(2))
    assert dtypes == [expected] * 2
    assert not torch.is_autocast_enabled('cpu')
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize('dtype', ['float16', 'float64'])
def test_other_dtypes_need_a_gpu(model, dtype):
    with pytest.raises(ValueError, match=f"or 'float32', but got '{dtype}'"):
        build(model, dtype=dtype)


@pytest.fixture
def _on_a_gpu(monkeypatch):
    """As far as mmengine looks."""
    monkeypatch.setattr(optim_wrapper, 'get_device', lambda: 'cuda')
    monkeypatch.setattr(
        amp_optimizer_wrapper, 'is_cuda_available', lambda: True)


@pytest.mark.parametrize('use_fsdp', [False, True])
@pytest.mark.parametrize('dtype, expected', [
    (None, None), ('float16', torch.float16), ('bfloat16', torch.bfloat16)])
def test_on_a_gpu_it_is_mmengines(model, _on_a_gpu, dtype, expected, use_fsdp):
    options = dict(loss_scale=dict(enabled=False), use_fsdp=use_fsdp,
                   accumulative_counts=3, clip_grad=dict(max_norm=1.))
    found = build(model, dtype=dtype, **options)
    own = build(model, 'AmpOptimWrapper', dtype=dtype, **options)
    assert found.cast_dtype is own.cast_dtype is expected
    assert type(found.loss_scaler) is type(own.loss_scaler)
    assert isinstance(found.loss_scaler, ShardedGradScaler) == use_fsdp
    assert found._accumulative_counts == 3
    assert found.clip_grad_kwargs == own.clip_grad_kwargs


@pytest.mark.parametrize('kind, sharded', [
    ('AutocastOptimWrapper', True), ('OptimWrapper', None)])
def test_fsdp_shards_the_scaler(model, _on_a_gpu, monkeypatch, kind, sharded):
    """Of itself mmengine's strategy asks its own wrapper alone."""
    monkeypatch.setattr(
        FSDPStrategy, 'build_optim_wrapper',
        lambda self, cfg, model: build(model, cfg.pop('type'), **cfg))
    strategy = PartialFSDPStrategy.__new__(PartialFSDPStrategy)
    wrapper = strategy.build_optim_wrapper(
        dict(type=kind, clip_grad=dict(max_norm=1.)), model)
    scaler = getattr(wrapper, 'loss_scaler', None)
    assert (isinstance(scaler, ShardedGradScaler) or None) == sharded
    model.clip_grad_norm_ = lambda max_norm: torch.tensor(max_norm)
    assert wrapper.clip_func(None, max_norm=3.) == 3
