"""Figures of one model, image by image."""

import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmseg_semflow.apis import load_model
from mmseg_semflow.apis.scoring import Evaluation, solver_settings
from mmseg_semflow.evaluation import MaskConsistency, SampleDiversity
from mmseg_semflow.synthesis import Synthesizer, image_and_labels
from tiny import process_cfg, runner_cfg, save_checkpoint, segmentor_cfg

METRICS = [dict(type='MaskConsistency'), dict(type='SampleDiversity')]


@pytest.fixture(scope='module')
def model(shared_files):
    return load_model(*shared_files, device='cpu')


def test_figures_are_those_of_the_synthesizer(model):
    """Each sample is synthesised once, besides one to warm up."""
    synthesizer = Synthesizer(
        model.semflow, 2, 'heun', num_samples=3, segment_steps=1, seed=5)
    evaluation = Evaluation(model, num_images=2)
    made = []
    synthesize = synthesizer.synthesize
    synthesizer.synthesize = lambda requests: (
        made.extend(requests) or synthesize(requests))
    row = evaluation.synthesis(synthesizer, METRICS)
    assert len(made) == 1 + 2 * 3
    assert row['synthesis_nfe'] == 4

    fields = [synthesizer.evaluate(*image_and_labels(evaluation.dataset[i]))
              for i in range(2)]
    for metric in (MaskConsistency(), SampleDiversity()):
        metric.dataset_meta = model.dataset_meta
        metric.process(None, fields)
        for key, value in metric.evaluate(2).items():
            assert row[key] == pytest.approx(value), key
    for picture, field in zip(evaluation.pictures, fields, strict=True):
        np.testing.assert_array_equal(
            picture, field['fake_img'].permute(1, 2, 0).numpy())


def test_size_and_round_trip(model):
    """Masks are resized before they are timed, as the synthesizer does."""
    evaluation = Evaluation(model, num_images=1)
    synthesizer = Synthesizer(
        model.semflow, 1, num_samples=2, size=(8, 12), round_trip=True)
    pytest.importorskip('torchmetrics')
    row = evaluation.synthesis(
        synthesizer, [dict(type='RoundTrip'), dict(type='SampleDiversity')])
    assert evaluation.pictures[0].shape == (8, 12, 3)
    # Neither the round trip nor the second sample is counted.
    assert row['synthesis_nfe'] == 1 and row['round_trip_PSNR'] > 0


def test_segmentation_leaves_the_model_as_it_was(model):
    before = dict(model.test_cfg)
    evaluation = Evaluation(model, num_images=3)
    row = evaluation.segmentation(num_steps=3, solver='rk4')
    assert row['segmentation_nfe'] == 12 and 0 <= row['mIoU'] <= 100
    assert dict(model.test_cfg) == before
    with pytest.raises(ValueError, match='solver must be one of'):
        evaluation.segmentation(solver='rk9')
    assert dict(model.test_cfg) == before
    assert not model.semflow.network._forward_hooks


def test_pictures_are_spread_over_the_images(model):
    evaluation = Evaluation(model)
    evaluation.segmentation()
    truth = evaluation.truth
    assert len(evaluation.pictures) == len(truth['image']) == 4
    palette = np.array(model.dataset_meta['palette'])
    item = evaluation.dataset[3]
    labels = item['data_samples'].gt_sem_seg.data[0].numpy()
    expected = np.where((labels < 5)[..., None], palette[labels % 5], 0)
    np.testing.assert_array_equal(truth['mask'][3], expected)
    np.testing.assert_array_equal(
        truth['image'][3], item['inputs'].flip(0).permute(1, 2, 0).numpy())


@pytest.mark.parametrize('seeds', [(0, ), (0, 1)])
def test_seeds_of_a_process_that_samples_noise(tmp_path, street, seeds):
    of_process = process_cfg('dsm')
    cfg = runner_cfg(street, tmp_path, model=segmentor_cfg(**of_process))
    save_checkpoint(tmp_path / 'model.pth', **of_process)
    evaluation = Evaluation(
        load_model(cfg, tmp_path / 'model.pth', 'cpu'), num_images=2)
    row = evaluation.segmentation(seeds=seeds)
    assert row['segmentation_nfe'] == 2
    if len(seeds) == 1:
        assert 'pixels_differ' not in row
        assert evaluation.segmentation(seeds=seeds)['mIoU'] == row['mIoU']
    else:
        assert row['mIoU_min'] <= row['mIoU'] <= row['mIoU_max']
        assert row['pixels_differ'] > 0


def test_settings_of_solvers(model):
    settings = solver_settings(model.semflow, ['euler', 'dopri5'], [1, 5])
    assert settings == [
        (dict(solver='euler', num_steps=1), dict(solver='euler', num_steps=1)),
        (dict(solver='euler', num_steps=5), dict(solver='euler', num_steps=5)),
        (dict(solver='dopri5', num_steps=1), dict(solver='dopri5', num_steps='-'))
    ]
    with pytest.raises(ValueError, match='solver must be one of'):
        solver_settings(model.semflow, ['rk9'], [1])


def test_wrong_arguments(model):
    with pytest.raises(ValueError, match='num_images must be >= 1, but got 0'):
        Evaluation(model, num_images=0)
    other = torch.nn.Module()
    other.cfg = Config(dict(model=dict(type='SemFlow')))
    with pytest.raises(ValueError, match='the config has no test_dataloader'):
        Evaluation(other)
