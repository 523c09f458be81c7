"""Distances under the features of any network."""

import pytest
import torch
from mmengine.registry import METRICS, MODELS
from torch import nn

from mmseg_semflow.evaluation import features
from mmseg_semflow.evaluation.inception import frechet_distance, kernel_distance

pytest.importorskip('torchmetrics')


@MODELS.register_module()
class Colours(nn.Module):
    """Known features: what is right of the middle, as it is."""

    basis = 'colours'

    def forward(self, pixels):
        return [pixels, pixels[..., pixels.shape[-1] // 2:]]


def metric(**kwargs):
    return METRICS.build(
        dict(type='FeatureDistance', network=dict(type='Colours'), **kwargs))


def test_the_features_are_means_over_the_deepest_map(results, log):
    found = metric()
    found.process(None, results)
    figures = found.evaluate(len(results))

    def mean(image):
        image = image / 127.5 - 1
        return image[..., image.shape[-1] // 2:].mean((1, 2)).double()

    real = torch.stack([mean(r['gt_img']) for r in results])
    fake = torch.stack([mean(s) for r in results for s in r['samples']])
    assert figures['feature_FD'] == pytest.approx(
        frechet_distance(real, fake), rel=1e-4)
    expected = kernel_distance(real, fake, min(len(real), len(fake)))
    assert figures['feature_KD'] == pytest.approx(expected[0], rel=1e-4, abs=1e-7)
    assert 'features of colours: not to be compared with FID' in ' '.join(log)


def test_rules(results):
    with pytest.raises(ValueError, match='subset_size must be >= 2, but got 1'):
        metric(subset_size=1)
    found = metric(subset_size=1000)
    found.process(None, results)
    with pytest.raises(ValueError, match='subset_size = 1000 of each'):
        found.evaluate(len(results))


def test_without_the_packages_it_is_left_out(monkeypatch, results, log):
    monkeypatch.setitem(
        features.MODELS.module_dict, 'EfficientNetLiteFeatures', _missing)
    found = METRICS.build(dict(type='FeatureDistance'))
    found.process(None, results)
    assert found.evaluate(len(results)) == {}
    assert 'FeatureDistance is left out: someone needs a library' in ' '.join(log)


def _missing():
    raise features.MissingExtraError('someone', 'a library', 'features',
                                     ImportError('gone'))
