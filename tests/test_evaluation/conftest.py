"""Results of a synthesis and files of weights, small and random."""

import logging

import pytest
import torch
from mmengine.logging import MMLogger


def make(seed, num_samples=2, size=(40, 48)):
    generator = torch.Generator().manual_seed(seed)

    def image(*number):
        return torch.randint(
            256, (*number, 3, *size), generator=generator, dtype=torch.uint8)

    label_map = torch.randint(4, size, generator=generator)
    label_map[:3] = 255
    samples = image(num_samples)
    return dict(
        protocol='euler 25, seed 0',
        gt_img=image(),
        gt_label_map=label_map,
        fake_img=samples[0],
        samples=samples,
        sample_label_maps=torch.randint(
            4, (num_samples, *size), generator=generator),
        round_trip_img=image(),
        label_round_trip_img=image())


@pytest.fixture
def synthesise():
    """Make what a synthesis gives for a mask, by a seed."""
    return make


@pytest.fixture
def results(synthesise):
    return [synthesise(seed) for seed in range(3)]


@pytest.fixture
def log():
    """Collect what is logged."""
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty folder of torch.hub, from which nothing is downloaded."""
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))

    def refuse(url, **kwargs):
        raise AssertionError(f'downloads {url}')

    monkeypatch.setattr(torch.hub, 'load_state_dict_from_url', refuse)
    folder = tmp_path / 'hub/checkpoints'
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(scope='session')
def trunks(tmp_path_factory):
    """Networks of torchvision with random weights, and their files."""
    from torchvision.models import alexnet, vgg
    torch.manual_seed(1)
    layers = dict(
        alex=alexnet().features, vgg=vgg.make_layers(vgg.cfgs['D'], False))
    folder = tmp_path_factory.mktemp('trunks')
    for name, network in layers.items():
        torch.save({
            f'features.{key}': value
            for key, value in network.state_dict().items()
        }, folder / f'{name}.pth')
    return {name: (layers[name], str(folder / f'{name}.pth')) for name in layers}


@pytest.fixture(scope='session')
def alexnet_file(trunks):
    return trunks['alex'][1]


@pytest.fixture(scope='session')
def inception_file(tmp_path_factory):
    fidelity = pytest.importorskip(
        'torch_fidelity.feature_extractor_inceptionv3')
    torch.manual_seed(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            fidelity, 'load_state_dict_from_url', lambda *args, **kwargs: {})
        patch.setattr(torch.nn.Module, 'load_state_dict', lambda *args: None)
        network = fidelity.FeatureExtractorInceptionV3('random', ['2048'])
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            # Else all features vanish.
            torch.nn.init.kaiming_normal_(layer.weight)
    path = tmp_path_factory.mktemp('weights') / 'inception.pth'
    torch.save(network.state_dict(), path)
    return path
