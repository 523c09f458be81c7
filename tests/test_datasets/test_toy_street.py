import json
import multiprocessing

import cv2
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from mmengine import ConfigDict
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import DATASETS

from mmseg_semflow.datasets.toy_street import (
    CLASSES,
    PALETTE,
    ToyStreetDataset,
    _Canvas,
    _write_scenes,
    draw_street,
    write_toy_street,
)

MODULE = 'mmseg_semflow.datasets.toy_street'
SMALL = dict(num_train=3, num_val=2, size=(32, 48), seed=1)
PREFIX = dict(img_path='img_dir/train', seg_map_path='ann_dir/train')


def scene(i, size=(64, 96)):
    return draw_street(np.random.default_rng([0, 0, i]), size)


def read(folder):
    return {
        path.name: path.read_bytes()
        for path in sorted(folder.glob('*.png'))
    }


@pytest.fixture(scope='module')
def scenes():
    images, labels = zip(*map(scene, range(60)), strict=True)
    return np.stack(images), np.stack(labels)


def test_scene_depends_on_the_seed_alone():
    image, labels = scene(0)
    again = scene(0)
    assert np.array_equal(image, again[0])
    assert np.array_equal(labels, again[1])
    assert not np.array_equal(image, scene(1)[0])


@pytest.mark.parametrize('size', [(32, 32), (33, 70), (128, 256)])
def test_size_is_configurable(size):
    image, labels = scene(0, size)
    assert image.shape == (*size, 3) and image.dtype == np.uint8
    assert labels.shape == size and labels.dtype == np.uint8
    assert labels.max() < len(CLASSES)


def test_every_class_occurs_in_most_scenes(scenes):
    _, labels = scenes
    shares = [(labels == index).sum((1, 2)) >= 15
              for index in range(len(CLASSES))]
    assert labels.max() < len(CLASSES)
    assert np.mean(shares, 1).min() > 0.9
    assert all(0.02 < (labels == index).mean() < 0.5
               for index in range(len(CLASSES)))


def test_image_and_labels_are_drawn_with_the_same_pixels(monkeypatch):
    _, expected = scene(0)

    def flat(name):
        method = getattr(_Canvas, name)
        monkeypatch.setattr(
            _Canvas, name, lambda self, *args: method(
                self, *args[:-2], np.full(3, 30.0 * args[-1]), args[-1]))

    for name in ('polygons', 'rect', 'ellipse'):
        flat(name)
    monkeypatch.setattr(_Canvas, 'shadow', lambda *args: None)
    monkeypatch.setattr(f'{MODULE}.GRAIN', np.zeros(len(CLASSES), np.float32))
    image, labels = scene(0)
    sky = labels == CLASSES.index('sky')
    assert np.array_equal(labels, expected)
    assert (image[~sky] == 30 * labels[~sky][:, None]).all()


def test_label_borders_lie_on_image_edges(scenes):
    images, labels = scenes
    contrast = np.abs(np.diff(images.astype(int), axis=2)).mean(-1)
    border = labels[:, :, 1:] != labels[:, :, :-1]
    means = {
        shift: contrast[np.roll(border, shift, 2)].mean()
        for shift in range(-2, 3)
    }
    assert means[0] > 1.3 * max(means[shift] for shift in (-2, -1, 1, 2))


def test_classes_have_typical_and_varying_colours(scenes):
    images, labels = scenes
    mean = {name: images[labels == i].mean(0) for i, name in enumerate(CLASSES)}
    assert mean['sky'].mean() > mean['building'].mean() + 30
    assert mean['sky'][2] > mean['road'][2] + 40
    assert mean['sidewalk'].mean() > mean['road'].mean() + 10
    assert mean['tree'][1] > mean['tree'][2] + 20
    assert all(images[labels == i].std(0).min() > 10
               for i in range(len(CLASSES)))


def test_layout_on_disk(tmp_path):
    root = tmp_path / 'deep' / 'street'
    write_toy_street(str(root), **SMALL)
    for kind in ('img_dir', 'ann_dir'):
        assert list(read(root / kind /
                         'train')) == [f'{i:05d}.png' for i in range(3)]
        assert list(read(root / kind /
                         'val')) == [f'{i:05d}.png' for i in range(2)]
    labels = cv2.imread(
        str(root / 'ann_dir/val/00001.png'), cv2.IMREAD_UNCHANGED)
    assert labels.shape == (32, 48) and labels.dtype == np.uint8
    meta = json.loads((root / 'meta.json').read_text())
    assert meta == dict(SMALL, size=[32, 48], version=1)
    assert [path.name for path in root.parent.iterdir()] == ['street']


def test_smaller_dataset_is_a_subset(tmp_path):
    write_toy_street(str(tmp_path / 'large'), **SMALL)
    write_toy_street(
        str(tmp_path / 'small'), **dict(SMALL, num_train=1, num_val=1))
    for split in ('train', 'val'):
        for kind in ('img_dir', 'ann_dir'):
            small = read(tmp_path / 'small' / kind / split)
            large = read(tmp_path / 'large' / kind / split)
            assert small.items() < large.items()
    train, val = (
        tmp_path / f'large/img_dir/{split}' for split in ('train', 'val'))
    assert read(train)['00000.png'] != read(val)['00000.png']


def test_dataset_reads_back_what_was_written(tmp_path):
    dataset = DATASETS.build(
        ConfigDict(
            type='ToyStreetDataset',
            data_root=str(tmp_path / 'street'),
            data_prefix=PREFIX,
            generate=SMALL))
    dataset.pipeline.transforms = [LoadImageFromFile(), LoadAnnotations()]
    assert isinstance(dataset, ToyStreetDataset) and len(dataset) == 3
    assert dataset.metainfo['classes'] == CLASSES
    assert dataset.metainfo['palette'] == PALETTE
    for i in range(3):
        image, labels = draw_street(np.random.default_rng([1, 0, i]), (32, 48))
        assert np.array_equal(dataset[i]['img'][..., ::-1], image)
        assert np.array_equal(dataset[i]['gt_seg_map'], labels)


def test_existing_folder_is_used_without_writing(tmp_path):
    root = tmp_path / 'street'
    write_toy_street(str(root), **SMALL)
    before = (root / 'meta.json').stat().st_mtime_ns
    ToyStreetDataset(data_root=str(root), data_prefix=PREFIX, generate=SMALL)
    dataset = ToyStreetDataset(data_root=str(root), data_prefix=PREFIX)
    assert len(dataset) == 3
    assert (root / 'meta.json').stat().st_mtime_ns == before


def test_nothing_is_written_without_generate(tmp_path):
    with pytest.raises(FileNotFoundError):
        ToyStreetDataset(data_root=str(tmp_path / 'street'), data_prefix=PREFIX)
    assert not (tmp_path / 'street').exists()


def test_other_content_is_reported_and_kept(tmp_path):
    root = tmp_path / 'street'
    write_toy_street(str(root), **SMALL)
    before = read(root / 'img_dir/train')
    message = "street holds .*found .*'seed': 1.*requested .*'seed': 2.*delete"
    with pytest.raises(ValueError, match=message):
        ToyStreetDataset(data_root=str(root), generate=dict(SMALL, seed=2))
    assert read(root / 'img_dir/train') == before
    (root / 'ann_dir/val/00001.png').unlink()
    with pytest.raises(
            ValueError, match='val is incomplete: found 1 .* requested 2'):
        write_toy_street(str(root), **SMALL)


def test_foreign_folder_is_kept(tmp_path):
    (tmp_path / 'notes.txt').write_text('mine')
    with pytest.raises(ValueError, match='found None'):
        write_toy_street(str(tmp_path), **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ['notes.txt']


@pytest.mark.process
def test_concurrent_construction_leaves_one_complete_folder(
        tmp_path, monkeypatch):
    context = multiprocessing.get_context('fork')
    barrier, root = context.Barrier(2), tmp_path / 'street'

    def write_together(*args):
        _write_scenes(*args)
        barrier.wait(30)

    def construct():
        dataset = ToyStreetDataset(
            data_root=str(root), data_prefix=PREFIX, generate=SMALL)
        assert len(dataset) == 3

    monkeypatch.setattr(f'{MODULE}._write_scenes', write_together)
    processes = [context.Process(target=construct) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ['street']
    write_toy_street(str(root), **SMALL)


def test_interrupted_generation_leaves_nothing(tmp_path, monkeypatch):
    calls = []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return draw_street(*args)

    with monkeypatch.context() as patch:
        patch.setattr(f'{MODULE}.draw_street', interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_toy_street(str(tmp_path / 'street'), **SMALL)
    assert not list(tmp_path.iterdir())
    write_toy_street(str(tmp_path / 'street'), **SMALL)
    assert len(read(tmp_path / 'street/img_dir/train')) == 3


@pytest.mark.parametrize(
    'name, value, message',
    [('num_train', 0, 'num_train must be an integer of at least 1, got 0'),
     ('num_val', 1.5, 'num_val must be an integer of at least 1, got 1.5'),
     ('seed', -1, 'seed must be an integer of at least 0, got -1'),
     ('size', (64, 31), 'size must be .* at least 32, got 31'),
     ('size', (64, ), r'size must be \(height, width\), got \(64,\)'),
     ('size', 64, r'size must be \(height, width\), got 64')])
def test_bad_arguments(tmp_path, name, value, message):
    with pytest.raises(ValueError, match=message):
        write_toy_street(
            str(tmp_path / 'street'), **dict(SMALL, **{name: value}))
    assert not list(tmp_path.iterdir())
