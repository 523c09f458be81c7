"""Whether probabilities are those with which a segmentor is right."""

import math

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import nn

from mmseg_semflow.apis.calibration import fit_temperature
from mmseg_semflow.engine import EntropyVisualizer
from mmseg_semflow.evaluation import CalibrationError
from mmseg_semflow.evaluation.calibration import (
    calibration_figures,
    count_bins,
    logits_of,
)
from mmseg_semflow.pixels import entropy_map
from mmseg_semflow.synthesis.pictures import entropy_picture
from tiny import META, segmentor_cfg


def drawn(count=200_000, seed=0):
    """Logits, and labels that are drawn by their softmax: perfectly calibrated."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, 4, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    return logits, labels


def result(logits, labels):
    """What a metric gets."""
    return SegDataSample(
        seg_logits=PixelData(data=logits),
        gt_sem_seg=PixelData(data=labels[None])).to_dict()


def test_closed_form():
    """Three pixels of 0.9, two right; one of 0.6, wrong."""
    largest = torch.tensor([0.9, 0.9, 0.9, 0.6])
    logits = torch.stack([largest, 1 - largest], 1).log()
    labels = torch.tensor([0, 0, 1, 1])
    found = calibration_figures(count_bins(logits, labels, 10))
    assert found == pytest.approx(dict(
        ECE=100 * (abs(3 * 0.9 - 2) + 0.6) / 4,
        NLL=-(2 * math.log(0.9) + math.log(0.1) + math.log(0.4)) / 4,
        confidence=100 * 3.3 / 4,
        aAcc=50.), abs=1e-5)


def test_bins_have_their_upper_border():
    logits = torch.tensor([[0., 0.]])  # 0.5 of two bins is in the first
    assert count_bins(logits, torch.tensor([0]), 2)[0].tolist() == [1, 0]
    sure = torch.tensor([[100., 0.]])
    assert count_bins(sure, torch.tensor([0]), 15)[0].argmax() == 14


def test_calibrated_and_bold_logits():
    logits, labels = drawn()
    true = calibration_figures(count_bins(logits, labels))
    bold = calibration_figures(count_bins(3 * logits, labels))
    assert true['ECE'] < 0.5 and abs(true['confidence'] - true['aAcc']) < 0.3
    assert bold['ECE'] > 8 and bold['aAcc'] == true['aAcc']
    assert bold['ECE'] == pytest.approx(bold['confidence'] - bold['aAcc'], abs=0.5)
    assert bold['NLL'] > true['NLL']


@pytest.mark.parametrize('scale', [1 / 5, 1, 3])
def test_the_temperature_is_found(scale):
    logits, labels = drawn()
    assert fit_temperature(scale * logits, labels) == pytest.approx(scale, rel=0.02)


def test_the_metric_counts_labelled_pixels_of_any_segmentor():
    logits, labels = drawn(600)
    labels[::7] = 255
    whole = CalibrationError()
    pictures = [
        result(part.T.reshape(4, 10, 20), truth.reshape(10, 20))
        for part, truth in zip(logits.split(200), labels.split(200), strict=True)
    ]
    whole.process({}, pictures[:2])
    whole.process({}, pictures[2:])
    valid = labels != 255
    expected = calibration_figures(count_bins(logits[valid], labels[valid]))
    assert {**whole.evaluate(3), 'aAcc': expected['aAcc']} == pytest.approx(expected)


@pytest.mark.parametrize('sample, reason', [
    ({}, 'it has none'),
    (result(torch.zeros(1, 2, 2), torch.zeros(2, 2)), 'it has 1'),
])
def test_no_logits(sample, reason):
    with pytest.raises(ValueError, match=f'at least two classes.*{reason}'):
        CalibrationError().process({}, [sample])
    with pytest.raises(ValueError, match='num_bins must be >= 1, but got 0'):
        CalibrationError(num_bins=0)


@pytest.mark.parametrize('refiner', [
    None, dict(type='LatentRefiner', latent_channels=12, num_classes=5, detail=2)
])
def test_a_temperature_divides_logits_and_changes_no_label(refiner):
    cfg = segmentor_cfg(refiner=refiner)
    model = MODELS.build(cfg).eval()
    pixels = torch.rand(1, 3, 16, 16) * 2 - 1
    hot = dict(model.test_cfg, temperature=4.)
    found = []
    with torch.no_grad():
        for test_cfg in (model.test_cfg, type(model.test_cfg)(hot)):
            model.test_cfg = test_cfg
            sample, = model.predict(pixels)
            given = logits_of(sample.to_dict())
            torch.testing.assert_close(given, sample.seg_logits.data)
            torch.testing.assert_close(given, model.encode_decode(pixels)[0])
            found.append(sample)
    cold, warm = found
    torch.testing.assert_close(warm.seg_logits.data, cold.seg_logits.data / 4)
    assert torch.equal(warm.pred_sem_seg.data, cold.pred_sem_seg.data)


@pytest.mark.parametrize('value', [0, -1., float('inf'), float('nan'), '2', None])
def test_wrong_temperatures(value):
    cfg = segmentor_cfg(dict(temperature=value))
    with pytest.raises(ValueError, match='test_cfg.temperature must be a number > 0'):
        MODELS.build(cfg)


def test_entropy():
    """0 where one class is sure, 1 where all are alike; of two, the closed form."""
    logits = torch.tensor([[100., 0., math.log(3)], [0., 0., 0.]])[:, None]
    expected = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(2)
    torch.testing.assert_close(entropy_map(logits), torch.tensor([[0., 1., expected]]))
    dark, bright, _ = entropy_picture(logits)[0].astype(int).sum(-1)
    assert dark < 20 < 400 < bright


@pytest.mark.parametrize('to_file', [True, False])
def test_the_visualizer_draws_entropy_beside(tmp_path, to_file):
    visualizer = EntropyVisualizer(
        vis_backends=[dict(type='LocalVisBackend')], save_dir=str(tmp_path))
    visualizer.dataset_meta = META
    model = MODELS.build(segmentor_cfg()).eval()
    nn.init.normal_(model.semflow.network.unet.conv_out.weight)
    with torch.no_grad():
        sample, = model.predict(torch.rand(1, 3, 16, 24) * 2 - 1)
    image = np.zeros((16, 24, 3), np.uint8)
    visualizer.add_datasample(
        'street', image, sample, draw_gt=False,
        out_file=str(tmp_path / 'street.png') if to_file else None)
    found, = tmp_path.rglob('street_entropy*.png')
    assert len(list(tmp_path.rglob('*.png'))) == 2
    np.testing.assert_array_equal(
        cv2.imread(str(found))[..., ::-1], entropy_picture(sample.seg_logits.data))
