"""A config of the benchmark, and a benchmark that the tests share."""

import pytest
import torch
from mmengine.registry import init_default_scope
from tool_calls import call_tool  # noqa: F401

from mmseg_semflow.benchmark import Benchmark, measure
from tiny import VAE, runner_cfg, write_street

FLOPS = dict(encode=2, network=3, training=9, decode=1)


def benchmark_cfg(street, work_dir):
    cfg = runner_cfg(street, work_dir)
    cfg.model.semflow.autoencoder = dict(type='KLAutoencoder', vae=VAE)
    cfg.model.semflow.network.unet.update(in_channels=4, out_channels=4)
    cfg.optim_wrapper.clip_grad = dict(max_norm=1.)
    return cfg


@pytest.fixture
def cfg(street, tmp_path):
    return benchmark_cfg(street, tmp_path / 'work')


@pytest.fixture(scope='session')
def bench(tmp_path_factory):
    """Two rounds on tiny networks, their FLOPs made up."""
    folder = tmp_path_factory.mktemp('benchmark')
    init_default_scope('mmseg')
    torch.manual_seed(0)
    bench = Benchmark(
        benchmark_cfg(write_street(folder / 'street'), folder / 'work'),
        folder / 'out',
        size=(24, 32),
        repeats=2)
    # Fake tensors take seconds; tests/test_apis/test_costs.py has them.
    bench.flops = FLOPS
    return bench


@pytest.fixture
def made_up_flops(monkeypatch):
    monkeypatch.setattr(measure, 'count_flops', lambda *_: FLOPS)
