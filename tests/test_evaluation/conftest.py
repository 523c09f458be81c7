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
