"""Metrics that need no network: diversity, detail and round trips."""

import math

import pytest
import torch

from mmseg_semflow.evaluation import (
    DetailRatio,
    NoiseGain,
    RoundTrip,
    SampleDiversity,
)

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


def test_diversity_beside_that_of_real_pictures(synthesise):
    """Two classes, left and right, whose real levels differ by 20 and 60."""
    results = [synthesise(seed, size=(48, 64)) for seed in range(3)]
    for number, sample in enumerate(results):
        sample['gt_label_map'] = torch.arange(64).expand(48, 64) // 32
        sample['gt_label_map'][:12] = 255
        sample['gt_img'][..., :32] = 20 * (number % 2)
        sample['gt_img'][..., 32:] = 60 * (number % 2)
        sample['samples'][0], sample['samples'][1] = 100, 107
        sample['samples'][1, :, :, 32:] = 130
    # Two of three pairs differ; the upper quarter is void and does not count.
    expected = (7 + 30) / (2 / 3 * (20 + 60))
    assert evaluate(SampleDiversity(), results)['relative_diversity'] == \
        pytest.approx(expected)
    # Where labels never agree real pictures say nothing.
    results[1]['gt_label_map'] = results[0]['gt_label_map'] + 2
    assert 'relative_diversity' not in evaluate(SampleDiversity(), results[:2])


def test_real_pictures_as_samples_are_as_diverse_as_they_are(synthesise):
    results = [synthesise(seed, size=(48, 64)) for seed in range(40)]
    for sample in results:
        sample['gt_label_map'] = torch.zeros(48, 64, dtype=torch.int64)
        sample['samples'] = torch.stack([results[0]['gt_img'], sample['gt_img']])
    found = evaluate(SampleDiversity(), results[1:])['relative_diversity']
    assert found == pytest.approx(1, abs=0.02)


def test_noise_gain(results):
    spreads = [(1., 2.), (2., 2.), (0., 1.)]
    for sample, (samples, starts) in zip(results, spreads, strict=True):
        sample.update(sample_spread=samples, start_spread=starts)
    assert evaluate(NoiseGain(), results) == dict(noise_gain=3 / 5)
    for sample in results:
        sample['start_spread'] = 0.
    with pytest.raises(ValueError, match='amplitude .* or mask_noise'):
        evaluate(NoiseGain(), results)


@pytest.mark.parametrize('period, band', [(3, 'fine'), (6, 'middle'), (12, 'coarse')])
def test_detail_is_told_by_octave(synthesise, period, band):
    sample = synthesise(0, size=(96, 96))
    waves = {
        p: 30 * torch.sin(2 * math.pi * torch.arange(96) / p) for p in (3, 6, 12)}
    sample['gt_img'] = (128 + sum(waves.values())).expand(3, 96, 96).to(torch.uint8)
    found = evaluate(DetailRatio(), [dict(
        sample, samples=sample['gt_img'].expand(2, -1, -1, -1))])
    assert found == pytest.approx(dict.fromkeys(found, 1))
    blurred = 128 + sum(w for p, w in waves.items() if p != period) + waves[period] / 2
    sample['samples'] = blurred.expand(2, 3, 96, 96).to(torch.uint8)
    found = evaluate(DetailRatio(), [sample])
    assert found.pop(f'detail_{band}') == pytest.approx(1 / 4, rel=0.03)
    assert found == pytest.approx(dict.fromkeys(found, 1), rel=0.03)


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
