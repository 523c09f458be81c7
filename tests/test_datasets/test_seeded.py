"""What a training draws, and the images that it cannot read."""

from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS
from mmengine.runner import Runner

from mmseg_semflow.datasets import SeededDataset, SeededSampler, seeded
from mmseg_semflow.datasets import UnreadableImageError
from tiny import META, TEST_PIPELINE, runner_cfg, train_pipeline


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


def dataset(root, max_unreadable=0, split='train', pipeline=None):
    return SeededDataset(
        DATASETS.build(
            dict(
                type='BaseSegDataset',
                metainfo=META,
                data_root=str(root),
                data_prefix=dict(
                    img_path=f'img_dir/{split}',
                    seg_map_path=f'ann_dir/{split}'),
                pipeline=pipeline or train_pipeline())),
        max_unreadable=max_unreadable)


def test_sample_depends_on_seed_and_position_alone(street):
    data = dataset(street)

    def mask(position, seed=3):
        torch.rand(7), np.random.rand(7)
        sample = data[seeded.Draw(2, seed, position)]
        return sample['data_samples'].gt_pseudo_mask.data

    first = mask(5)
    assert torch.equal(mask(5), first)
    assert not torch.equal(mask(6), first)
    assert not torch.equal(mask(5, seed=4), first)


def truncate(path):
    """Cut off the end of a JPEG or PNG."""
    data = path.read_bytes()
    path.write_bytes(data[:len(data) * 3 // 4])


@pytest.mark.parametrize('name', ['img_dir/train/2.jpg', 'ann_dir/train/2.png'])
@pytest.mark.parametrize('damage', [
    truncate,
    lambda path: path.write_bytes(b''),
    lambda path: path.write_bytes(b'<html>404</html>'),
    lambda path: path.write_bytes(path.read_bytes()[:20]),
])
def test_next_image_in_place_of_an_unreadable_one(street, name, damage):
    damage(street / name)
    data = dataset(street, max_unreadable=1)
    replaced, other = (data[seeded.Draw(index, 3, 8)] for index in (2, 3))
    assert torch.equal(replaced['inputs'], other['inputs'])
    message, = replaced['data_samples'].unreadable
    assert f'{name} cannot be read' in message
    assert 'unreadable' not in other['data_samples']


def test_truncated_png_image(street):
    path = street / 'img_dir/train/2.jpg'
    path.write_bytes(cv2.imencode('.png', cv2.imread(str(path)))[1].tobytes())
    truncate(path)
    sample = dataset(street, max_unreadable=1)[seeded.Draw(2, 3, 8)]
    assert 'train/2.jpg' in sample['data_samples'].unreadable[0]


@pytest.mark.parametrize('workers', [0, 1])
def test_training_skips_and_names(street, tmp_path, workers):
    truncate(street / 'img_dir/train/2.jpg')
    truncate(street / 'ann_dir/train/4.png')
    cfg = runner_cfg(street, tmp_path / 'work', max_iters=9)
    cfg.merge_from_dict({
        'train_cfg.type': 'ResumableTrainLoop',
        'train_cfg.max_unreadable': 2,
        'train_dataloader.num_workers': workers,
    })
    Runner.from_cfg(cfg).train()
    log, = (tmp_path / 'work').rglob('*.log')
    for name in ('img_dir/train/2.jpg', 'ann_dir/train/4.png'):
        assert log.read_text().count(f'{name} cannot be read') == 1


@pytest.mark.parametrize('limit', [0, 1])
def test_training_stops_at_too_many(street, tmp_path, limit):
    names = ['img_dir/train/2.jpg', 'ann_dir/train/4.png'][:limit + 1]
    for name in names:
        truncate(street / name)
    cfg = runner_cfg(street, tmp_path / 'work', max_iters=9)
    cfg.merge_from_dict({
        'train_cfg.type': 'ResumableTrainLoop',
        'train_cfg.max_unreadable': limit,
    })
    with pytest.raises(RuntimeError) as caught:
        Runner.from_cfg(cfg).train()
    assert f'more than train_cfg.max_unreadable={limit}' in str(caught.value)
    assert all(name in str(caught.value) for name in names)


def test_nothing_is_readable(street):
    for path in (street / 'img_dir/train').glob('*'):
        truncate(path)
    with pytest.raises(UnreadableImageError, match='max_unreadable=1'):
        dataset(street, max_unreadable=1)[seeded.Draw(0, 3, 0)]


@pytest.mark.parametrize('name', ['img_dir/val/1.jpg', 'ann_dir/val/1.png'])
def test_validation_stops_by_name(street, tmp_path, name):
    truncate(street / name)
    runner = Runner.from_cfg(runner_cfg(street, tmp_path / 'work'))
    with pytest.raises(UnreadableImageError, match=f'{name} cannot be read'):
        runner.test()


def test_missing_file_is_not_skipped(street):
    (street / 'ann_dir/train/2.png').unlink()
    data = dataset(street, max_unreadable=5, pipeline=TEST_PIPELINE)
    with pytest.raises(FileNotFoundError, match='ann_dir/train/2.png'):
        data[seeded.Draw(2, 0, 0)]


def test_other_samplers_are_refused(street, tmp_path):
    cfg = runner_cfg(street, tmp_path / 'work')
    cfg.merge_from_dict({
        'train_cfg.type': 'ResumableTrainLoop',
        'train_dataloader.sampler.type': 'DefaultSampler',
    })
    with pytest.raises(ValueError, match="but got 'DefaultSampler'"):
        Runner.from_cfg(cfg).train()


@pytest.mark.parametrize('name', ['semflow_cityscapes', 'semflow_toy',
                                  'semflow_generator_camvid'])
def test_recipes_use_the_loop(name):
    cfg = Config.fromfile(Path(__file__).parents[2] / f'configs/{name}.py')
    assert cfg.train_cfg.type == 'ResumableTrainLoop'
    assert cfg.train_cfg.max_unreadable == 10
