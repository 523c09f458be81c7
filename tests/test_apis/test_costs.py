"""Memory and FLOPs from tensors without data, against closed forms."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn
from torch.profiler import ProfilerActivity, profile

from mmseg_semflow.apis.costs import (
    PeakMemory,
    count_flops,
    estimate_training_memory,
    training_size,
)
from tiny import VAE, runner_cfg

KL = dict(type='KLAutoencoder', vae=VAE)
SIZE = (32, 48)


# Half of the usual network: every operator without data takes a millisecond.
SHALLOW = dict(
    down_block_types=('CrossAttnDownBlock2D', ),
    up_block_types=('CrossAttnUpBlock2D', ),
    block_out_channels=(16, ))


@pytest.fixture
def cfg(tmp_path):
    cfg = runner_cfg(tmp_path / 'no data', tmp_path)
    cfg.model.semflow.network.unet.update(SHALLOW)
    return cfg


def test_the_estimate_by_part(cfg):
    found = estimate_training_memory(cfg, batch_size=2, size=SIZE)
    network = MODELS.build(cfg.model.semflow.network)
    trained = 4 * sum(p.numel() for p in network.parameters())
    prompt = 4 * network.null_prompt.numel()
    assert found['gradients'] == found['ddp_buckets'] == trained
    assert found['parameters'] == trained + prompt
    assert found['optimizer'] == 2 * trained
    assert found['autoencoder'] == found['ema'] == 0
    assert found['total'] == sum(v for k, v in found.items() if k != 'total')
    cfg.optim_wrapper.optimizer = dict(type='SGD', lr=1., momentum=0.9)
    cfg.custom_hooks = [dict(type='EMAHook')]
    cfg.model.semflow.autoencoder = KL
    cfg.model.semflow.network.unet.update(in_channels=4, out_channels=4)
    found = estimate_training_memory(cfg, 2, SIZE, distributed=False)
    vae = MODELS.build(KL)
    frozen = 4 * sum(p.numel() for p in vae.parameters())
    assert found['optimizer'] == found['gradients']
    assert found['autoencoder'] == frozen and found['ddp_buckets'] == 0
    assert found['ema'] == found['parameters'] + frozen


def test_adamw_has_all_roots_at_once(cfg):
    """On a GPU, unless it is fused: of a wide network and a small picture, the most."""
    cfg.model.semflow.network.unet.update(block_out_channels=(256, ))
    found = estimate_training_memory(cfg, 1, (8, 8))
    assert found['activations'] == found['gradients']
    for option in (dict(fused=True), dict(foreach=False)):
        changed = copy.deepcopy(cfg)
        changed.optim_wrapper.optimizer.update(option)
        less = estimate_training_memory(changed, 1, (8, 8))
        assert 0 < less['activations'] < found['activations']
        assert less['optimizer'] == found['optimizer']


def test_an_adapter_is_all_that_is_trained(cfg):
    pytest.importorskip('peft')
    whole = estimate_training_memory(cfg, 2, SIZE)
    cfg.model.semflow.network.lora = dict(rank=2)
    found = estimate_training_memory(cfg, 2, SIZE)
    network = MODELS.build(cfg.model.semflow.network)
    trained = 4 * sum(
        w.numel() for name, w in network.named_parameters() if '.lora_' in name)
    assert found['gradients'] == found['ddp_buckets'] == trained
    assert found['optimizer'] == 2 * trained
    # Behind it, the digest of its base and its factor.
    assert found['parameters'] == whole['parameters'] + trained + 256 + 4


def profiled_peak(function):
    """Peak of the CPU allocator, by the profiler's record of it."""
    with profile(
            activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        keep = function()
    del keep
    live = peak = 0
    for event in trace.profiler.kineto_results.events():
        if event.name() == '[memory]':
            live += event.nbytes()
            peak = max(peak, live)
    return peak


@pytest.mark.parametrize('checkpointing', [False, True])
def test_the_estimate_is_what_a_step_takes(cfg, checkpointing):
    net = cfg.model.semflow.network
    net.gradient_checkpointing = checkpointing
    found = estimate_training_memory(cfg, 2, (64, 64), distributed=False)
    network = MODELS.build(net).train()

    def step():
        zt, t = torch.randn(2, 12, 32, 32), torch.rand(2)
        loss = network(zt, t).square().mean()
        loss.backward()
        return loss

    # The first call also builds what kernels keep.
    step()
    network.zero_grad()
    expected = profiled_peak(step)
    assert found['gradients'] + found['activations'] == pytest.approx(
        expected, rel=0.1)


def test_checkpointing_and_bfloat16_take_less(cfg):
    def activations(**kwargs):
        options = cfg.copy()
        options.merge_from_dict(kwargs)
        return estimate_training_memory(options, 2, (64, 96))['activations']

    plain = activations()
    key = 'model.semflow.network.gradient_checkpointing'
    assert activations(**{key: True}) < 0.7 * plain
    amp = {'optim_wrapper.type': 'AutocastOptimWrapper',
           'optim_wrapper.dtype': 'bfloat16'}
    assert 0.5 * plain < activations(**amp) < 0.9 * plain


def test_peak_memory_of_tensors():
    weight = torch.ones(1000)
    with PeakMemory() as counter:
        a = weight + 1
        b = a.view(10, 100)
        a.add_(1)
        c = b * 2
        del a, b
        d = c.clone()
    assert counter.peak == 8000 and counter.live == 8000
    del c, d
    assert counter.live == 0


@pytest.mark.parametrize('groups', [1, 4])
def test_flops_are_those_of_a_convolution(cfg, monkeypatch, groups):
    class Network(nn.Module):
        in_channels = 12

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(12, 20, 3, padding=1, groups=groups)
            self.linear = nn.Linear(20, 12)

        def forward(self, zt, t):
            return self.linear(self.conv(zt).movedim(1, -1)).movedim(-1, 1)

    monkeypatch.setitem(MODELS.module_dict, 'VelocityUNet', lambda **_: Network())
    cells = 16 * 24
    conv, linear = 2 * 12 * 20 * 9 * cells // groups, 2 * 20 * 12 * cells
    # The backward pass is as large again for weights and for inputs, except
    # for those of the first layer, which no gradient is asked for.
    assert count_flops(cfg, SIZE) == dict(
        encode=0,
        network=conv + linear,
        training=2 * conv + 3 * linear,
        decode=0)


def test_flops_of_attention_and_of_checkpointing(cfg):
    net = cfg.model.semflow.network
    base = count_flops(cfg, SIZE)
    assert 2.8 * base['network'] < base['training'] < 3 * base['network']
    net.gradient_checkpointing = True
    assert count_flops(cfg, SIZE) == base
    cfg.model.semflow.autoencoder = KL
    net.unet.update(in_channels=4, out_channels=4)
    pair = count_flops(cfg, SIZE)
    assert pair['encode'] > 0 and pair['decode'] > 0


def test_size_of_the_training_images(cfg):
    with pytest.raises(ValueError, match='no RandomCrop and no Resize'):
        training_size(cfg)
    pipeline = cfg.train_dataloader.dataset.pipeline
    pipeline.insert(2, dict(type='Resize', scale=(96, 64)))
    assert training_size(cfg) == (64, 96)
    pipeline[2]['scale'] = 80
    assert training_size(cfg) == (80, 80)
    pipeline.insert(3, dict(type='RandomCrop', crop_size=(32, 48)))
    assert training_size(cfg) == (32, 48)
    cfg.model.data_preprocessor = Config(dict(size=(40, 56)))
    assert training_size(cfg) == (40, 56)


def test_costs_need_a_flow(cfg):
    cfg.model = dict(type='EncoderDecoder')
    with pytest.raises(ValueError, match="model.type='EncoderDecoder'"):
        count_flops(cfg)
