"""FID and KID."""

import numpy as np
import pytest
import torch
from torch import nn

from mmseg_semflow.evaluation import InceptionDistance
from mmseg_semflow.evaluation.inception import frechet_distance, kernel_distance

pytest.importorskip('torchmetrics')
pytest.importorskip('torch_fidelity')

from scipy.linalg import sqrtm  # noqa: E402
from torch_fidelity.feature_extractor_inceptionv3 import (  # noqa: E402
    FeatureExtractorInceptionV3,
)
from torch_fidelity.metric_kid import kid_features_to_metric  # noqa: E402


def features(number, seed, size=12):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(size, size, generator=generator, dtype=torch.double)
    noise = torch.randn(number, size, generator=generator, dtype=torch.double)
    return noise @ mix + seed


def nuclear(real, fake):
    """FID without any eigenvalues: tr (C C')^1/2 is a nuclear norm."""
    (a, m), (b, n) = (((x - x.mean(0)) / (len(x) - 1)**.5, x.mean(0))
                      for x in (real, fake))
    norm = torch.linalg.matrix_norm(a @ b.T, 'nuc')
    return (((m - n)**2).sum() + (a**2).sum() + (b**2).sum() - 2 * norm).item()


def test_fid_closed_form():
    real, fake = features(40, 1), features(60, 2)
    covariances = [np.cov(x.numpy(), rowvar=False) for x in (real, fake)]
    expected = ((real.mean(0) - fake.mean(0))**2).sum().item() + sum(
        map(np.trace, covariances)) - 2 * np.trace(
            sqrtm(covariances[0] @ covariances[1])).real
    assert frechet_distance(real, fake) == pytest.approx(expected, rel=1e-9)
    assert nuclear(real, fake) == pytest.approx(expected, rel=1e-9)


def test_fid_of_fewer_images_than_features():
    real, fake = features(7, 1, size=64), features(9, 2, size=64)
    assert frechet_distance(real, fake) == pytest.approx(
        nuclear(real, fake), rel=1e-6)


def test_fid_of_shifted_and_equal_sets():
    real = features(40, 1)
    shift = torch.arange(12.)
    assert frechet_distance(real, real + shift) == pytest.approx(506, rel=1e-9)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize('subset_size', [6, 30])
def test_kid(subset_size):
    real, fake = features(30, 1), features(30, 1) + .5
    mean, std = kernel_distance(real, fake, subset_size)
    torch.rand(5)
    assert kernel_distance(real, fake, subset_size) == [mean, std]

    def kernel(x, y):
        return ((x @ y.T) / 12 + 1)**3

    off = ~torch.eye(30, dtype=torch.bool)
    full = (kernel(real, real)[off].mean() + kernel(fake, fake)[off].mean() -
            2 * kernel(real, fake).mean()).item()
    if subset_size == 30:
        assert mean == pytest.approx(full) and std == pytest.approx(0, abs=1e-9)
    else:
        assert abs(mean - full) < 3 * std / 10  # 100 subsets, unbiased


class Gray(nn.Module):

    def forward(self, image):
        return (image.float().mean((2, 3)), )


def test_weights_of_fidelity(synthesise, inception_file):
    """Through the network, as torch_fidelity does it."""
    results = [synthesise(seed, num_samples=1) for seed in range(3)]
    for sample in results:
        sample['samples'] //= 2
    metric = InceptionDistance(weights=str(inception_file))
    metric.process(None, results)
    figures = metric.evaluate(3)

    network = FeatureExtractorInceptionV3('again', ['2048'], str(inception_file))
    with torch.no_grad():
        (real, ), (fake, ) = (
            network(torch.stack(images)) for images in zip(
                *((s['gt_img'], s['samples'][0]) for s in results), strict=True))
    assert figures['FID'] == pytest.approx(
        nuclear(real.double(), fake.double()), rel=1e-3)
    reference = kid_features_to_metric(
        real.double(), fake.double(), kid_subsets=1, kid_subset_size=3,
        verbose=False)
    assert figures['KID'] == pytest.approx(
        reference['kernel_inception_distance_mean'], rel=1e-3)


def test_best_and_worst(hub, results):
    def fid(samples_of):
        metric = InceptionDistance()
        metric.network, metric.missing = Gray(), None
        for sample in results:
            sample['samples'] = samples_of(sample)
        metric.process(None, results)
        return metric.evaluate(3)

    same = fid(lambda sample: sample['gt_img'][None])
    assert same['FID'] == pytest.approx(0, abs=1e-4)
    assert fid(lambda sample: sample['gt_img'][None] // 2)['FID'] > 1e4


@pytest.mark.parametrize('count, kwargs, match', [
    (1, {}, 'at least 2 real images .* got 1 and 2'),
    (3, dict(kid_subset_size=5), 'kid_subset_size = 5 .* got 3 and 6'),
])
def test_too_few_images(hub, results, count, kwargs, match):
    metric = InceptionDistance(**kwargs)
    metric.network, metric.missing = Gray(), None
    metric.process(None, results[:count])
    with pytest.raises(ValueError, match=match):
        metric.evaluate(count)


def test_wrong_subset_size():
    with pytest.raises(ValueError, match='kid_subset_size must be >= 2'):
        InceptionDistance(kid_subset_size=1)
