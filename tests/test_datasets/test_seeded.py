"""What a training draws."""

from itertools import islice

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS
from shipped import read

from mmseg_semflow.datasets import (
    RareClassSampler,
    SeededDataset,
    SeededSampler,
    seeded,
)
from runs import build_runner
from tiny import street_dataset, train_pipeline, transforms_pipeline


def draws(start, number, size=5, rank=0, world_size=1, monkeypatch=None):
    sampler = SeededSampler(range(size), seed=3)
    sampler.start = start
    if monkeypatch:
        monkeypatch.setattr(seeded, 'get_dist_info', lambda: (rank, world_size))
    return list(islice(sampler, number))


def test_sampler_permutes_every_epoch():
    epochs = np.array([draw.index for draw in draws(0, 50)]).reshape(10, 5)
    assert (np.sort(epochs) == np.arange(5)).all()
    assert len({tuple(epoch) for epoch in epochs}) > 5
    assert [draw.index for draw in islice(
        SeededSampler(range(3), 0, shuffle=False), 5)] == [0, 1, 2, 0, 1]


def test_sampler_starts_anywhere():
    assert draws(17, 20) == draws(0, 37)[17:]


def test_ranks_share_the_positions(monkeypatch):
    whole = draws(0, 12)
    for rank in range(3):
        assert draws(3, 3, rank=rank, world_size=3,
                     monkeypatch=monkeypatch) == whole[3 + rank::3]


def test_kinds_of_draws_are_independent():
    found = set()
    for key in [(1, 3, 4), (1, 4, 3), (2, 3, 4), (2, 3, 0, 4), (2, 3, 1, 4)]:
        seeded.seed_generators(*key)
        found.add((np.random.rand(), torch.rand(()).item()))
    assert len({a for a, _ in found}) == len({b for _, b in found}) == 5


@pytest.mark.parametrize('pipeline', [train_pipeline, transforms_pipeline])
def test_sample_depends_on_seed_and_position_alone(shared_street, pipeline):
    data = SeededDataset(
        DATASETS.build(
            street_dataset(
                shared_street, serialize_data=False, pipeline=pipeline())))

    def draw(position, seed=3):
        torch.rand(7), np.random.rand(7)
        sample = data[seeded.Draw(2, seed, position)]
        if pipeline is transforms_pipeline:
            return sample['data_samples'].gt_pseudo_mask.data.tolist()
        return sample['inputs'].tolist()

    first = draw(5)
    assert draw(5) == first
    # A flip has but two results.
    assert any(draw(position) != first for position in range(6, 14))
    assert any(draw(5, seed) != first for seed in range(4, 12))


def rare_sampler(root, seed=3, **kwargs):
    return RareClassSampler(
        SeededDataset(street_dataset(root)), seed, **kwargs)


def test_rare_classes_are_drawn_as_their_rule_says(shared_street):
    """Classes by the softmax of their rarity, alike the maps that show enough."""
    sampler = rare_sampler(shared_street, temperature=0.05)
    choice = sampler.choice
    shows = choice.counts / choice.counts.sum(1, keepdims=True) >= 3000 / 512**2
    expected = (shows / shows.sum(0)) @ choice.probabilities
    found = np.bincount([draw.index for draw in islice(sampler, 3000)]) / 3000
    assert (abs(found - expected) < 4 * (expected / 3000)**0.5).all()
    assert expected.std() > 0.01


def test_rare_classes_start_anywhere_and_follow_the_seed(shared_street):
    whole = list(islice(rare_sampler(shared_street), 30))
    later = rare_sampler(shared_street, seed=9)
    later.seed, later.start = 3, 12
    assert list(islice(later, 18)) == whole[12:]
    later.seed = 4
    assert list(islice(later, 18)) != whole[12:]


@pytest.mark.parametrize('kwargs, match', [
    (dict(shuffle=False), 'shuffle must be True, but got False'),
    (dict(classes=['boat']), "must be of a, b, c, d, e, but got 'boat'"),
    (dict(temperature=-1), 'temperature must be > 0, but got -1'),
])
def test_wrong_arguments_of_rare_classes(shared_street, kwargs, match):
    with pytest.raises(ValueError, match=match):
        rare_sampler(shared_street, **kwargs)


def test_a_rare_class_that_no_map_holds_is_named(street):
    folder = street / 'ann_dir/train'
    for path in folder.iterdir():
        cv2.imwrite(str(path), np.zeros((24, 32), np.uint8))
    with pytest.raises(ValueError, match='none of 6 masks of BaseSegDataset in '
                       f"{folder} holds the class 'c' "):
        rare_sampler(street, classes=['c'])


def test_rare_classes_through_the_training_loop(shared_street, tmp_path):
    runner = build_runner(shared_street, tmp_path / 'work', **{
        'train_cfg.type': 'ResumableTrainLoop',
        'train_dataloader.sampler.type': 'RareClassSampler',
    })
    loop = runner.build_train_loop(runner._train_loop)
    assert isinstance(loop.dataloader.sampler, RareClassSampler)
    expected = islice(rare_sampler(shared_street, seed=runner.seed), 6)
    assert list(islice(loop.dataloader.sampler, 6)) == list(expected)


def test_other_samplers_are_refused(shared_street, tmp_path):
    runner = build_runner(shared_street, tmp_path / 'work', **{
        'train_cfg.type': 'ResumableTrainLoop',
        'train_dataloader.sampler.type': 'DefaultSampler',
    })
    with pytest.raises(ValueError, match="but got 'DefaultSampler'"):
        runner.train()


@pytest.mark.parametrize('name', ['semflow_cityscapes', 'semflow_toy',
                                  'semflow_generator_camvid'])
def test_recipes_use_the_loop(name):
    cfg = read(name)
    assert cfg.train_cfg.type == 'ResumableTrainLoop'
    assert cfg.train_cfg.max_unreadable == 10
