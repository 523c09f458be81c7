"""The benchmark's figures add up, and it measures what was asked for."""

import json
import shutil

import cv2
import numpy as np
import pytest

from mmseg_semflow.benchmark import Benchmark, measure
from tiny import process_cfg, semflow_cfg


def test_all_parts(bench):
    bench.measure_runner()
    bench.measure_steps()
    bench.measure_colouring()
    bench.measure_profile()
    bench.measure_inference([1, 3], batch_sizes=[1, 2])
    bench.measure_synthesis(1)
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
    assert [(row['num_steps'], row['batch_size'], row['GFLOP_per_image'])
            for row in tables['inference']] == [
                (1, 1, 5e-9), (3, 1, 11e-9), (1, 2, 5e-9), (3, 2, 11e-9)]
    for row in tables['inference']:
        assert row['images_per_second'] == pytest.approx(
            row['batch_size'] / row['seconds'])
    alone, together = tables['synthesis']
    assert alone['batch_size'] == 1 and together['batch_size'] == 2
    assert alone['levels_at_most'] == alone['values_that_differ'] == 0
    assert together['levels_at_most'] <= 1
    assert [row['part'] for row in tables['profile']] == [
        'loading, packing', 'colouring, perturbation', 'encoding', 'forward',
        'backward', 'optimizer']
    assert sum(row['share'] for row in tables['profile']) == pytest.approx(1)
    assert min(row['seconds'] for row in tables['profile']) > 0
    assert {
        row['part']: row['share_of_peak'] * row['seconds'] * bench.peak / 2
        for row in tables['profile'] if 'share_of_peak' in row
    } == pytest.approx(dict(encoding=2, forward=3, backward=6))
    shares = [row['share'] for row in tables['operators']]
    assert 0 < shares[-1] <= shares[0] and sum(shares) <= 1
    total = tables['pipeline'][-1]
    assert total['images_per_second_and_core'] == pytest.approx(
        1000 / total['milliseconds'])
    assert [row['transform'] for row in tables['pipeline']] == [
        'LoadImageFromFile', 'LoadAnnotations', 'RandomFlip', 'Resize',
        'PackSegInputs', 'all']
    compared = 'transforms in the pipeline / colouring in the model'
    assert [row['what'] for row in tables['ratios']] == [
        'time of an iteration: runner / bare loop',
        'rate: step / plain step',
        'rate: step from cached latents / plain step',
        "the autoencoder's share of the step",
        f'time of loading: {compared}',
        f'time of step: {compared}',
        f'time of loading and step: {compared}',
        'rate of synthesis: batches of 2 / alone',
        'rate: GeneratePseudoMask / by class, in floats',
        f'time of an image and its pseudo mask: {compared}']
    for row in tables['ratios']:
        assert 0 < row['lower_quartile'] <= row['ratio'] <= row['upper_quartile']


def test_a_loader_hands_over_what_the_pipeline_packs(bench):
    bench.tables['loader'] = []
    bench.measure_loader([0, 1], seconds=0.01)
    assert [row['num_workers'] for row in bench.tables['loader']] == [0, 1]
    assert all(row['images_per_second'] > 0 for row in bench.tables['loader'])


def test_the_released_step_beside_ours(bench):
    bench.tables.update(steps=[], ratios=[])
    bench.measure_released()
    assert {row['what']: row['GFLOP_per_image']
            for row in bench.tables['steps']} == {
                'released step': 11e-9, 'step': 11e-9,
                'step from cached latents': 9e-9}
    assert [row['what'] for row in bench.tables['ratios']] == [
        'rate: step / released step',
        'rate: step from cached latents / released step']


def test_the_tool_without_data(cfg, street, tmp_path, call_tool):
    shutil.rmtree(street)
    cfg.custom_imports = dict(imports=['mmseg_semflow.models'])
    cfg.model.semflow.network.sd_folder = 'nowhere'
    cfg.dump(str(tmp_path / 'config.py'))
    out = tmp_path / 'out'
    said = call_tool(
        'benchmark.py', tmp_path / 'config.py', '--out', out, '--parts',
        'pipeline', '--file-size', 40, 56, '--size', 32, 48, '--batch-size', 3,
        '--optimizer', 'SGD', '--repeats', 2)
    assert '.jpg files of 40x56 without meaning, since there is no' in said
    found = json.loads((out / 'benchmark.json').read_text())
    assert found['conditions']['size'] == '32x48'
    assert found['conditions']['optimizer'] == 'SGD'
    assert cv2.imread(str(out / 'files/img_dir/0.jpg')).shape == (40, 56, 3)
    labels = cv2.imread(str(out / 'files/ann_dir/0.png'), cv2.IMREAD_UNCHANGED)
    assert set(np.unique(labels)) <= {0, 1, 2, 3, 4, 255}


def test_options_are_compared_to_networks_without(
        cfg, tmp_path, monkeypatch, made_up_flops):
    seen = {}

    def plain_loss(model, images, pseudo_masks):
        weight = model.network.unet.conv_in.weight
        seen['plain'] = weight.is_contiguous()
        return weight.sum()

    monkeypatch.setattr(measure, 'plain_loss', plain_loss)
    cfg.model.semflow.channels_last = True
    bench = Benchmark(cfg, tmp_path / 'out', size=(24, 32), repeats=1)
    bench.measure_steps()
    assert seen['plain']
    weight = bench.model.semflow.network.unet.conv_in.weight
    assert not weight.is_contiguous()


def test_a_config_whose_pipeline_does_not_end(cfg, tmp_path):
    cfg.train_dataloader.dataset.pipeline = [dict(type='LoadImageFromFile')]
    with pytest.raises(ValueError, match='must end in one of .*LoadImageFromFile'):
        Benchmark(cfg, tmp_path)


def test_a_config_without_semflow(cfg, tmp_path):
    cfg.model = dict(type='EncoderDecoder')
    with pytest.raises(ValueError, match='has no model.semflow'):
        Benchmark(cfg, tmp_path)


def test_a_config_of_mmagic(cfg, tmp_path):
    cfg.default_scope = 'mmagic'
    with pytest.raises(ValueError, match='measure its twin for mmseg'):
        Benchmark(cfg, tmp_path)


def test_steps_of_another_process_have_no_plain_way(cfg, tmp_path):
    cfg.model.semflow = semflow_cfg(**process_cfg('dsm'))
    bench = Benchmark(cfg, tmp_path / 'out', size=(24, 32), repeats=1)
    with pytest.raises(ValueError, match='must be one, but got Diffusion'):
        bench.measure_steps()
