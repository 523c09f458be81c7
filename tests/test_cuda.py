"""What has to be seen on a GPU: `pytest -m cuda`.

On a host without one the same runs on the CPU, which rehearses it; what only a GPU
has is skipped there. Precision is TF32's nowhere.
"""

import os

# Before CUDA's libraries are loaded: what makes their products deterministic.
os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')

import copy  # noqa: E402
from datetime import timedelta  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402
from mmengine.device import get_device  # noqa: E402
from mmengine.registry import MODELS  # noqa: E402
from shipped import load  # noqa: E402
from torch import nn  # noqa: E402

from mmseg_semflow.apis.costs import estimate_training_memory  # noqa: E402
from mmseg_semflow.benchmark.timing import CUDA, peak_memory  # noqa: E402
from mmseg_semflow.engine import AutocastOptimWrapper  # noqa: E402
from mmseg_semflow.safe_loading import load_from_local  # noqa: E402
from mmseg_semflow.synthesis import ClassStatistics, Synthesizer  # noqa: E402
from runs import build_runner  # noqa: E402
from tiny import VAE, network_cfg, segmentor_cfg, training_data  # noqa: E402

pytestmark = pytest.mark.cuda
GPU_ONLY = pytest.mark.skipif(not CUDA, reason='a CPU has none of it')
KL = dict(
    autoencoder=dict(type='KLAutoencoder', vae=VAE), network=network_cfg(channels=4))


def build(checkpointing=False, **kwargs):
    """A tiny model of Stable Diffusion's kind, on the device."""
    torch.manual_seed(0)
    cfg = segmentor_cfg(**KL, **kwargs)
    cfg['semflow']['network']['gradient_checkpointing'] = checkpointing
    model = MODELS.build(cfg)
    nn.init.normal_(model.semflow.network.unet.conv_out.weight, std=0.3)
    return model.to(get_device())


@pytest.fixture(autouse=True)
def _full_precision():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision('highest')
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


@pytest.mark.parametrize('dtype', [
    'float32', 'bfloat16', pytest.param('float16', marks=GPU_ONLY)])
def test_a_training_step(dtype):
    model = build().train()
    scale = 'dynamic' if dtype == 'float16' else dict(enabled=False)
    wrapper = AutocastOptimWrapper(
        loss_scale=scale,
        dtype=dtype,
        optimizer=torch.optim.AdamW(model.semflow.network.parameters(), lr=1e-3),
        clip_grad=dict(max_norm=1.))
    before = copy.deepcopy(model.semflow.network.state_dict())
    losses = [
        model.train_step(training_data(), wrapper)['loss'].item() for _ in range(4)
    ]
    assert torch.tensor(losses).isfinite().all()
    after = model.semflow.network.state_dict()
    assert all(value.isfinite().all() for value in after.values())
    assert any(not torch.equal(value, before[key]) for key, value in after.items())


def directions(model):
    """Both directions of one input."""
    torch.manual_seed(1)
    pixels = torch.rand(2, 3, 24, 32) * 2 - 1
    pixels = pixels.to(model.semflow.device)
    with torch.no_grad():
        return [
            way(pixels, 3).cpu()
            for way in (model.semflow.image_to_mask, model.semflow.mask_to_image)
        ]


def test_both_directions_are_those_of_the_cpu():
    model = build().eval()
    found = directions(model)
    torch.testing.assert_close(
        found, directions(model.cpu()), atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize('option', ['channels_last', 'compile_network'])
def test_faster_forms_are_the_same_model(option, monkeypatch):
    if not CUDA:  # without a compiler
        monkeypatch.setattr(
            type(build().semflow.network), 'compile',
            lambda net: nn.Module.compile(net, backend='eager'))
    fast, plain = build(**{option: True}).eval(), build().eval()
    # Weights are drawn in the order in which they lie in memory.
    fast.load_state_dict(plain.state_dict())
    torch.testing.assert_close(
        directions(fast), directions(plain), atol=2e-4, rtol=1e-3)


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        model = build(checkpointing).train()
        torch.manual_seed(2)
        data = model.data_preprocessor(training_data(), True)
        torch.manual_seed(3)
        sum(model(**data, mode='loss').values()).backward()
        gradients.append([p.grad for p in model.semflow.network.parameters()])
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-3)


EMA = dict(
    type='EMAHook', ema_type='ExponentialMovingAverage', momentum=0.25)
# Of 24 x 32 pixels in patches, see runs.py.
TRAINING = {
    'train_cfg.type': 'ResumableTrainLoop',
    # Histograms, of which mmsegmentation makes mIoU, have no deterministic form there.
    'train_cfg.val_begin': 10**6,
    'custom_hooks': [EMA],
    'default_hooks.checkpoint.interval': 2,
    'optim_wrapper': dict(
        type='AutocastOptimWrapper', dtype='bfloat16',
        loss_scale=dict(enabled=False), optimizer=dict(type='AdamW', lr=1e-3)),
    'randomness': dict(seed=3, deterministic=True)
}


@pytest.fixture
def _deterministic():
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False


def train(root, work_dir, max_iters, **options):
    runner = build_runner(
        root, work_dir, max_iters, **copy.deepcopy(TRAINING | options))
    runner.train()
    return load_from_local(work_dir / f'iter_{max_iters}.pth')


def test_resuming_is_exact(shared_street, tmp_path, _deterministic):
    whole = train(shared_street, tmp_path / 'whole', 4)
    train(shared_street, tmp_path / 'parts', 2)
    resumed = train(shared_street, tmp_path / 'parts', 4, resume=True)
    for key in ('state_dict', 'ema_state_dict'):
        for name, value in whole[key].items():
            assert torch.equal(value, resumed[key][name]), name


def test_averaged_weights(shared_street, tmp_path, _deterministic):
    """After two steps: a quarter of the second's weights, the rest the first's."""
    first = train(shared_street, tmp_path / 'one', 1,
                  **{'default_hooks.checkpoint.interval': 1})
    second = train(shared_street, tmp_path / 'two', 2)
    # The checkpoint's state_dict holds the average, ema_state_dict the weights.
    name = 'semflow.network.unet.conv_in.weight'
    weights = second['ema_state_dict'][f'module.{name}']
    torch.testing.assert_close(
        second['state_dict'][name],
        torch.lerp(first['state_dict'][name], weights, 0.25))
    assert not torch.equal(second['state_dict'][name], weights)


def test_synthesis_is_deterministic_on_a_device():
    semflow = build().eval().semflow
    labels = torch.randint(0, 5, (24, 32))
    makers = [Synthesizer(semflow, 3, num_samples=2) for _ in range(2)]
    first, second = (make(labels) for make in makers)
    assert torch.equal(first, second)
    # Whatever is synthesised before.
    assert torch.equal(makers[0].synthesize([(labels, 1)])[0], first[1])
    assert not torch.equal(first[0], first[1])


def test_a_style_by_class_is_deterministic_on_a_device(shared_street):
    semflow = build().eval().semflow
    # Below what the untrained network adds to it, so that classes are found.
    nn.init.zeros_(semflow.network.unet.conv_out.weight)
    style = ClassStatistics(shared_street / 'img_dir/val', (48, 64))
    labels = torch.randint(0, 5, (6, 8)).repeat_interleave(8, 0).repeat_interleave(8, 1)
    styled, plain = (Synthesizer(semflow, 2, style=s) for s in (style, None))
    first = styled(labels)
    assert torch.equal(first, styled(labels)) and not torch.equal(first, plain(labels))


@GPU_ONLY
def test_memory_is_what_was_estimated(tmp_path):
    """Of Stable Diffusion 1.5, four pictures of 512 x 512, with checkpointing."""
    cfg = load('semflow_cityscapes')
    for part in ('network', 'autoencoder'):
        cfg.model.semflow[part].sd_folder = None
    model = MODELS.build(cfg.model).to(get_device()).train()
    wrapper = AutocastOptimWrapper(
        dtype='bfloat16',
        loss_scale=dict(enabled=False),
        optimizer=torch.optim.AdamW(model.semflow.network.parameters(), lr=1e-5))
    data = training_data((512, 512), count=4)
    model.train_step(data, wrapper)
    torch.cuda.empty_cache()
    measured = peak_memory(lambda: model.train_step(data, wrapper))
    estimated = estimate_training_memory(
        cfg, 4, (512, 512), distributed=False)['total']
    assert measured == pytest.approx(estimated, rel=0.15)


# Last: should it hang, all others have been.
@GPU_ONLY
def test_a_step_under_nccl(shared_street, tmp_path, monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.setenv('NCCL_SOCKET_IFNAME', 'lo')
    torch.distributed.init_process_group(
        'nccl', init_method=f'file://{tmp_path}/group', rank=0, world_size=1,
        timeout=timedelta(seconds=60))
    try:
        runner = build_runner(
            shared_street, tmp_path / 'work', 2, launcher='pytorch',
            model_wrapper_cfg=dict(
                type='MMDistributedDataParallel', device_ids=None,
                broadcast_buffers=False))
        runner.train()
        assert runner.iter == 2
    finally:
        torch.distributed.destroy_process_group()
