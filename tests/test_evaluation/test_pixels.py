"""Metrics that need no network: diversity and round trips."""

import math

import pytest

from mmseg_semflow.evaluation import RoundTrip, SampleDiversity

pytest.importorskip('torchmetrics')


def evaluate(metric, samples):
    metric.process(None, samples)
    return metric.evaluate(len(samples))


def test_levels(synthesise):
    """Three samples of constant levels 10, 20, 40 and a real one of 30."""
    sample = synthesise(0, num_samples=3)
    for image, level in zip(sample['samples'], (10, 20, 40), strict=True):
        image[:] = level
    sample['gt_img'][:] = 30
    assert evaluate(SampleDiversity(), [sample]) == dict(
        diversity=pytest.approx(20),
        brightness=pytest.approx(70 / 3),
        gt_brightness=30)


def test_equal_samples(results):
    for sample in results:
        sample['samples'][1] = sample['samples'][0]
    assert evaluate(SampleDiversity(), results)['diversity'] == 0


def test_differences_do_not_wrap_around(results):
    results[0]['samples'][0], results[0]['samples'][1] = 0, 255
    assert evaluate(SampleDiversity(), results[:1])['diversity'] == 255


def test_one_sample(synthesise):
    with pytest.raises(ValueError, match='at least 2 .*num_samples.* got 1'):
        SampleDiversity().process(None, [synthesise(0, num_samples=1)])


def test_psnr(results):
    """An error of 1 level is 20 log10(255) dB, of 5 levels 20 log10(51)."""
    for sample, error in zip(results, (1, 5, 5), strict=True):
        sample['gt_img'].clamp_(10, 240)
        sample['round_trip_img'] = sample['gt_img'] + error
        sample['label_round_trip_img'] = sample['gt_img'] - error
    expected = 20 * (math.log10(255) + 2 * math.log10(51)) / 3
    assert evaluate(RoundTrip(), results) == dict(
        round_trip_PSNR=pytest.approx(expected, rel=1e-5),
        label_round_trip_PSNR=pytest.approx(expected, rel=1e-5))


def test_psnr_of_equal_images(results):
    results[0]['round_trip_img'] = results[0]['gt_img'].clone()
    figures = evaluate(RoundTrip(), results)
    assert figures['round_trip_PSNR'] == math.inf
    assert figures['label_round_trip_PSNR'] < 20


def test_size_is_a_range(synthesise, results, log):
    evaluate(SampleDiversity(), [*results, synthesise(0, size=(16, 64), num_samples=3)])
    assert '4 masks and real images, 2 to 3 samples per mask' in log[-1]
    assert 'size 16x64 to 40x48; no feature network' in log[-1]
