"""LPIPS."""

from pathlib import Path

import pytest
import torch

from mmseg_semflow.evaluation import PerceptualDistance

lpips = pytest.importorskip('lpips')


def evaluate(samples, **kwargs):
    metric = PerceptualDistance(**kwargs)
    metric.process(None, samples)
    return metric.evaluate(len(samples))


def test_equal_images_are_at_distance_zero(results, alexnet_file):
    for sample in results:
        sample['samples'] = torch.stack([sample['gt_img']] * 3)
        sample['round_trip_img'] = sample['gt_img']
        del sample['label_round_trip_img']
    assert evaluate(results, weights=alexnet_file) == dict(
        LPIPS=0, LPIPS_diversity=0, round_trip_LPIPS=0)


@pytest.mark.parametrize('net, last', [('alex', (1, 4, 7, 9, 11)),
                                      ('vgg', (3, 8, 15, 22, 29))])
def test_closed_form(synthesise, trunks, net, last):
    """By torchvision's network and the heads of the package, step by step."""
    layers, path = trunks[net]
    heads = torch.load(
        Path(lpips.__file__).parent / f'weights/v0.1/{net}.pth',
        map_location='cpu')

    def features(image):
        mean = torch.tensor([.485, .456, .406])[:, None, None]
        std = torch.tensor([.229, .224, .225])[:, None, None]
        x = (image[None] / 255 - mean) / std
        for i, layer in enumerate(layers[:last[-1] + 1]):
            x = layer(x)
            if i in last:
                yield x / (x.norm(dim=1, keepdim=True) + 1e-10)

    @torch.no_grad()
    def distance(one, other):
        return sum((head * (x - y)**2).sum(1).mean().item()
                   for head, x, y in zip(
                       heads.values(), features(one), features(other),
                       strict=True))

    results = [synthesise(seed) for seed in range(2)]
    expected = dict(
        LPIPS=[distance(image, s['gt_img']) for s in results
               for image in s['samples']],
        LPIPS_diversity=[distance(*s['samples']) for s in results],
        round_trip_LPIPS=[distance(s['round_trip_img'], s['gt_img'])
                          for s in results],
        label_round_trip_LPIPS=[
            distance(s['label_round_trip_img'], s['gt_img']) for s in results
        ])
    assert evaluate(results, net=net, weights=path) == {
        key: pytest.approx(sum(values) / len(values), rel=1e-4)
        for key, values in expected.items()
    }


def test_one_sample_has_no_diversity(synthesise, alexnet_file):
    figures = evaluate([synthesise(0, num_samples=1)], weights=alexnet_file)
    assert 'LPIPS' in figures and 'LPIPS_diversity' not in figures


def test_least_size(synthesise, alexnet_file):
    evaluate([synthesise(0, size=(31, 31))], weights=alexnet_file)
    with pytest.raises(ValueError, match=r'>= 31 pixels .* got \(30, 64\)'):
        evaluate([synthesise(0, size=(30, 64))], weights=alexnet_file)


def test_unknown_net():
    with pytest.raises(ValueError, match=r"one of \['alex', 'vgg'\].*'squeeze'"):
        PerceptualDistance(net='squeeze')
