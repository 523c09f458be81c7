"""Filters on constructed losses, and through a real segmentor."""

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS

from mmseg_semflow.generation.filters import (
    CycleFilter,
    LossFilter,
    agreement,
    agreement_threshold,
)
from mmseg_semflow.synthesis import Synthesizer
from tiny import META, process_cfg, semflow_cfg


class GivenLosses(LossFilter):
    """A filter whose losses are the pixels of the picture, in tenths."""

    def __init__(self, num_classes):
        self.num_classes = num_classes
        self.tolerance = 1.25
        self.class_losses = None

    def losses(self, image, label_map):
        return np.where(label_map < self.num_classes, image[..., 0] / 10, 0.)


def picture(levels):
    return np.repeat(np.array(levels, np.uint8)[..., None], 3, 2)


@pytest.fixture
def fitted():
    """Mean losses of 1 and 3 of the classes 0 and 1; class 2 occurs nowhere."""
    losses = GivenLosses(3)
    losses.fit([(picture([[5, 15, 20]]), np.array([[0, 0, 1]], np.uint8)),
                (picture([[40, 200]]), np.array([[1, 255]], np.uint8))])
    return losses


def test_class_losses_are_means_over_all_real_pixels(fitted):
    np.testing.assert_allclose(fitted.class_losses, [1., 3., np.inf])


def test_pixels_above_the_tolerance_become_void(fitted):
    labels = np.array([[0, 0, 1, 1, 2, 255]], np.uint8)
    found, scores = fitted(picture([[12, 13, 37, 38, 255, 255]]), labels)
    assert found.tolist() == [[0, 255, 1, 255, 2, 255]]
    assert scores == dict(
        filtered=2 / 5, loss=(1.2 + 1.3 + 3.7 + 3.8 + 25.5) / 5,
        class_losses={'0': 1.25, '1': 3.75, '2': 25.5})
    everything = np.full_like(labels, 255)
    assert fitted(picture([[1] * 6]), everything)[1] == dict(
        filtered=0., loss=0., class_losses={})
    assert labels.tolist() == [[0, 0, 1, 1, 2, 255]]


def test_hardness_is_the_mean_loss_of_the_pixels_classes(fitted):
    counts = np.array([[3, 1, 0], [0, 5, 0], [0, 0, 0], [2, 0, 2]])
    np.testing.assert_allclose(
        fitted.hardness(counts), [(3 * 1 + 3) / 4, 3., 0., 0.5])


def test_losses_of_a_segmentor_are_its_cross_entropy(files):
    losses = LossFilter(*files, META['classes'])
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, 5, (24, 32), dtype=np.uint8)
    labels[0] = 255
    found = losses.losses(image, labels)
    from mmseg.apis import inference_model
    logits = inference_model(losses.network, image[..., ::-1].copy()).seg_logits.data
    chances = logits.float().log_softmax(0).numpy()
    rows, columns = np.indices(labels.shape)
    expected = -chances[labels % 5, rows, columns]
    assert (found[0] == 0).all()
    np.testing.assert_allclose(found[1:], expected[1:], rtol=1e-4, atol=1e-5)


def test_the_tolerance_is_that_of_freemask(files, monkeypatch):
    """1.25 of the mean loss of the class."""
    losses = LossFilter(*files, META['classes'])
    losses.class_losses = np.array([1., 2., 1., 1., 1.])
    found = np.array([[1.24, 1.26, 2.49, 2.51]])
    monkeypatch.setattr(losses, 'losses', lambda image, label_map: found)
    labels, scores = losses(None, np.array([[0, 0, 1, 1]], np.uint8))
    assert labels.tolist() == [[0, 255, 1, 255]] and scores['filtered'] == 0.5


def test_a_judge_of_other_classes_is_refused(files):
    with pytest.raises(ValueError, match=r"config.py must have the classes of the "
                       r"generator, \('a', 'b'\), but has"):
        LossFilter(*files, ('a', 'b'))


def test_agreement_counts_labelled_pixels():
    mask = np.array([[0, 0, 0, 1], [2, 2, 255, 255]])
    found = np.array([[0, 0, 1, 1], [2, 0, 0, 1]])
    assert agreement(found, mask, 4) == dict(
        agreement=4 / 6, class_agreement={'0': 0.6667, '1': 1., '2': 0.5})
    assert agreement(found, np.full_like(mask, 255), 4) == dict(
        agreement=0., class_agreement={})


def test_threshold_is_halfway_between_own_and_other_masks():
    own, others = np.linspace(0.8, 1, 101), np.linspace(0.2, 0.4, 101)
    assert agreement_threshold(own, others) == pytest.approx((0.81 + 0.39) / 2)
    with pytest.raises(ValueError, match='cannot judge its pictures.*--min-agreement'):
        agreement_threshold(others, own)


@pytest.mark.parametrize('process', ['semflow', 'symmflow'])
def test_the_cycle_filter_is_a_function_of_the_picture(process):
    torch.manual_seed(0)
    semflow = MODELS.build(
        semflow_cfg() if process == 'semflow' else semflow_cfg(
            **process_cfg(process)))
    cycle = CycleFilter(Synthesizer(semflow, num_steps=1))
    rng = np.random.default_rng(0)
    pairs = [(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8),
              rng.integers(0, 5, (24, 32), dtype=np.uint8)) for _ in range(3)]
    found = [cycle(*pair) for pair in pairs]
    torch.rand(7)
    assert [cycle(*pair) for pair in reversed(pairs)] == found[::-1]


def test_calibration_compares_with_the_labels_of_the_next_picture():

    class Exact(CycleFilter):

        def segment(self, image):
            return image[..., 0]

    cycle = Exact(Synthesizer(MODELS.build(semflow_cfg())))
    labels = np.zeros((3, 10, 10), np.uint8)
    labels[1, :2], labels[2, :5] = 1, 1
    pairs = [(picture(label_map), label_map) for label_map in labels]
    # With the next one's 80, 70 and 50 of 100 pixels agree.
    others = np.quantile([0.8, 0.7, 0.5], 0.95)
    assert cycle.threshold(pairs) == pytest.approx((1 + others) / 2)


def test_a_model_without_masks_cannot_judge():
    semflow = MODELS.build(semflow_cfg(**process_cfg('bbdm')))
    with pytest.raises(ValueError, match='CycleFilter asks for image_to_mask'):
        CycleFilter(Synthesizer(semflow))
