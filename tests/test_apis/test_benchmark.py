"""What is compared in the benchmark is the same, and its figures add up."""

import copy
import json
import runpy
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mmseg_semflow.apis import benchmark
from mmseg_semflow.benchmark.measure import Benchmark
from tiny import VAE, runner_cfg

ROOT = Path(__file__).parents[2]
KL = dict(type='KLAutoencoder', vae=VAE)


@pytest.fixture
def cfg(street, tmp_path):
    cfg = runner_cfg(street, tmp_path / 'work')
    cfg.model.semflow.autoencoder = KL
    cfg.model.semflow.velocity_net.unet.update(in_channels=4, out_channels=4)
    cfg.optim_wrapper.clip_grad = dict(max_norm=1.)
    return cfg


@pytest.fixture
def bench(cfg, tmp_path, monkeypatch):
    # Fake tensors take seconds; tests/test_apis/test_costs.py has them.
    monkeypatch.setattr(
        benchmark, 'count_flops',
        lambda *_: dict(encode=2, network=3, training=9, decode=1))
    return Benchmark(cfg, tmp_path / 'out', size=(24, 32), repeats=2)


def test_the_plain_step_is_the_same_step(bench, monkeypatch):
    # The same draws, in whatever order in memory an encoder leaves latents.
    monkeypatch.setattr(torch, 'randn_like', lambda x: torch.randn(x.shape))
    torch.manual_seed(3)
    expected = bench._loss(bench._inputs())
    torch.manual_seed(3)
    found = bench._plain_loss(bench.model.semflow)
    torch.testing.assert_close(found, expected)
    data = bench._inputs()
    masks = torch.stack([s.gt_pseudo_mask.data for s in data['data_samples']])
    cached = bench._cached(data['inputs'], masks, data['data_samples'])
    torch.manual_seed(4)
    expected = bench._loss(data)
    torch.manual_seed(4)
    found = bench._loss(bench._preprocessed(cached))
    torch.testing.assert_close(found, expected)


def test_the_bare_loop_is_the_same_iteration(bench):
    batch, = bench.runner.build_dataloader(bench.runner._train_dataloader)
    twin = copy.deepcopy(bench.model)
    wrapper = bench.runner.build_optim_wrapper(bench.cfg.optim_wrapper)
    optimizer = type(wrapper.optimizer)(
        twin.semflow.velocity_net.parameters(), lr=1e-3)
    wrapper.optimizer = optimizer
    torch.manual_seed(5)
    bench.model.train_step(batch, bench.wrapper)
    torch.manual_seed(5)
    benchmark.bare_step(twin, wrapper, batch)
    for (name, found), expected in zip(
            twin.named_parameters(), bench.model.parameters(), strict=True):
        torch.testing.assert_close(found, expected, msg=name)


def test_ratios_and_alternation():
    row = benchmark.ratio(
        dict(a=[2., 4., 6.], b=[1., 1., 2.]), 'a', 'b', 'a / b')
    assert row == dict(
        what='a / b', ratio=3., lower_quartile=2.5, upper_quartile=3.5, rounds=3)
    called = []
    times = benchmark.alternate(
        {name: lambda name=name: called.append(name)
         for name in 'abc'}, 3)
    assert ''.join(called) == 'abccbaabc'
    assert {name: len(values) for name, values in times.items()} == dict(
        a=3, b=3, c=3)


def test_all_parts(bench):
    bench.measure_runner()
    bench.measure_steps()
    bench.measure_profile()
    bench.measure_inference([1, 3])
    bench.measure_pipeline()
    tables = bench.tables
    flops = {row['what']: row['GFLOP_per_image'] for row in tables['steps']}
    assert flops == {
        'plain step': 11e-9, 'step': 11e-9, 'step from cached latents': 9e-9,
        'encoding alone': 2e-9}
    for row in tables['steps']:
        assert row['images_per_second'] == pytest.approx(2 / row['seconds'])
        assert row['share_of_peak'] == pytest.approx(
            row['GFLOP_per_image'] * 1e9 * row['images_per_second'] / bench.peak)
    assert [row['GFLOP_per_image'] for row in tables['inference']] == [
        5e-9, 11e-9]
    assert len(tables['ratios']) == 5
    assert sum(row['share'] for row in tables['profile']) == pytest.approx(1)
    assert min(row['seconds'] for row in tables['profile']) > 0
    shares = [row['share'] for row in tables['operators']]
    assert 0 < shares[-1] <= shares[0] and sum(shares) <= 1
    total = tables['pipeline'][-1]
    assert total['images_per_second_and_core'] == pytest.approx(
        1000 / total['milliseconds'])
    assert [row['transform'] for row in tables['pipeline']] == [
        'LoadImageFromFile', 'LoadAnnotations', 'RandomFlip', 'Resize',
        'GeneratePseudoMask', 'PerturbPseudoMask', 'PackSemFlowInputs', 'all']


def test_the_tool_without_data(cfg, street, tmp_path, monkeypatch, capsys):
    shutil.rmtree(street)
    cfg.custom_imports = dict(imports=['mmseg_semflow.models'])
    cfg.model.semflow.velocity_net.sd_folder = 'nowhere'
    cfg.dump(str(tmp_path / 'config.py'))
    out = tmp_path / 'out'
    monkeypatch.setattr(sys, 'argv', [
        'benchmark.py', str(tmp_path / 'config.py'), '--out', str(out),
        '--parts', 'pipeline', '--file-size', '40', '56', '--size', '32', '48',
        '--batch-size', '3', '--optimizer', 'SGD', '--repeats', '2'])
    runpy.run_path(str(ROOT / 'tools/benchmark.py'), run_name='__main__')
    said = capsys.readouterr().out
    assert '.jpg files of 40x56 without meaning, since there is no' in said
    found = json.loads((out / 'benchmark.json').read_text())
    assert found['conditions']['size'] == '32x48'
    assert found['conditions']['optimizer'] == 'SGD'
    assert cv2.imread(str(out / 'files/img_dir/0.jpg')).shape == (40, 56, 3)
    labels = cv2.imread(str(out / 'files/ann_dir/0.png'), cv2.IMREAD_UNCHANGED)
    assert set(np.unique(labels)) <= {0, 1, 2, 3, 4, 255}


def test_options_are_compared_to_networks_without(cfg, tmp_path, monkeypatch):
    monkeypatch.setattr(
        benchmark, 'count_flops',
        lambda *_: dict(encode=2, network=3, training=9, decode=1))
    seen = {}

    def plain_loss(model, images, pseudo_masks):
        weight = model.velocity_net.unet.conv_in.weight
        seen['plain'] = weight.is_contiguous()
        return weight.sum()

    monkeypatch.setattr(benchmark, 'plain_loss', plain_loss)
    cfg.model.semflow.channels_last = True
    bench = Benchmark(cfg, tmp_path / 'out', size=(24, 32), repeats=1)
    bench.measure_steps()
    assert seen['plain']
    weight = bench.model.semflow.velocity_net.unet.conv_in.weight
    assert not weight.is_contiguous()


def test_a_config_without_pseudo_masks(cfg, tmp_path):
    cfg.train_dataloader.dataset.pipeline = [dict(type='LoadImageFromFile')]
    with pytest.raises(ValueError, match='no train_pipeline with Generate'):
        Benchmark(cfg, tmp_path)


def test_a_config_of_mmagic(cfg, tmp_path):
    cfg.default_scope = 'mmagic'
    with pytest.raises(ValueError, match='measure its twin for mmseg'):
        Benchmark(cfg, tmp_path)
