"""Damaged images and label maps are named, and nothing else is blamed."""

import cv2
import numpy as np
import pytest
import tifffile
from mmengine import fileio
from mmengine.registry import DATASETS, TRANSFORMS
from mmseg.datasets import BaseSegDataset

from fuzzing import bombs
from mmseg_semflow import datasets
from mmseg_semflow.datasets import (
    CamVidDataset,
    SeededDataset,
    UnreadableImageError,
    seeded,
)
from mmseg_semflow.datasets.file_tasks import read_pixels
from mmseg_semflow.datasets.unreadable import NamedFiles, naming_damaged_files
from runs import build_runner
from tiny import (
    META,
    TEST_PIPELINE,
    street_dataset,
    train_pipeline,
    transforms_pipeline,
)

IMAGE, LABELS = 'img_dir/train/2.jpg', 'ann_dir/train/2.png'


def dataset_cfg(root, split='train', pipeline=None, **kwargs):
    return dict(
        type='BaseSegDataset',
        metainfo=META,
        data_root=str(root),
        data_prefix=dict(
            img_path=f'img_dir/{split}', seg_map_path=f'ann_dir/{split}'),
        serialize_data=False,
        pipeline=pipeline or train_pipeline()) | kwargs


def seeded_dataset(root, max_unreadable=0, **kwargs):
    return SeededDataset(
        DATASETS.build(dataset_cfg(root, **kwargs)), max_unreadable)


def draw(data, index=2):
    return data[seeded.Draw(index, 3, 8)]


def truncate(path):
    """Cut off the end of a JPEG or PNG."""
    data = path.read_bytes()
    path.write_bytes(data[:len(data) * 3 // 4])


def empty(path):
    path.write_bytes(b'')


def replace(path):
    path.write_bytes(b'<html>404</html>')


def behead(path):
    path.write_bytes(path.read_bytes()[20:])


def cut(path):
    path.write_bytes(path.read_bytes()[:20])


def as_png(path):
    path.write_bytes(cv2.imencode('.png', cv2.imread(str(path)))[1].tobytes())
    truncate(path)


@pytest.mark.parametrize('pipeline', [train_pipeline, transforms_pipeline])
@pytest.mark.parametrize('name, damage', [
    *((name, damage) for name in (IMAGE, LABELS)
      for damage in (truncate, empty, replace, behead, cut)), (IMAGE, as_png)])
def test_next_image_in_place_of_an_unreadable_one(street, name, damage,
                                                  pipeline):
    damage(street / name)
    data = seeded_dataset(street, max_unreadable=1, pipeline=pipeline())
    replaced, other = draw(data), draw(data, 3)
    assert (replaced['inputs'] == other['inputs']).all()
    message, = replaced['data_samples'].unreadable
    assert f'{name} cannot be read' in message
    assert 'unreadable' not in other['data_samples']


def loaders(image=None, labels=None):
    return [
        dict(type='LoadImageFromFile', **(image or {})),
        dict(type='LoadAnnotations', **(labels or {})),
        TEST_PIPELINE[2]
    ]


def write_floats(street):
    """Pictures that tifffile alone reads."""
    for path in (street / 'img_dir/train').iterdir():
        tifffile.imwrite(path, np.zeros((24, 32, 3), np.float32))


@pytest.mark.parametrize('backend, readable', [
    ('tifffile', True), ('pillow', False), ('cv2', False)])
def test_pictures_are_readable_to_their_backend(street, backend, readable):
    write_floats(street)
    data = seeded_dataset(
        street, max_unreadable=1, pipeline=loaders(dict(imdecode_backend=backend)))
    if readable:
        assert 'unreadable' not in draw(data)['data_samples']
    else:
        with pytest.raises(UnreadableImageError, match=f'{IMAGE} cannot be read'):
            draw(data)


@pytest.mark.parametrize('name, write, options', [
    (IMAGE, write_floats, dict(image=dict(imdecode_backend='tifffile'))),
    (IMAGE, None, dict(image=dict(imdecode_backend='pillow'))),
    (LABELS, None, dict(labels=dict(imdecode_backend='cv2')))])
def test_damaged_to_another_backend(street, name, write, options):
    if write:
        write(street)
    truncate(street / name)
    data = seeded_dataset(street, max_unreadable=1, pipeline=loaders(**options))
    message, = draw(data)['data_samples'].unreadable
    assert f'{name} cannot be read' in message


@fileio.register_backend('shelf', force=True)
class Shelf(fileio.LocalBackend):
    """Files that the local disk has under another name."""

    def get(self, filepath):
        return super().get(str(filepath).replace('/shelf/', '/street/'))


@TRANSFORMS.register_module(force=True)
class Fail:
    """A transform with an error of its own."""

    def __init__(self, error):
        self.error = error

    def __call__(self, results):
        raise self.error('mine')


@pytest.mark.parametrize('damaged', [False, True])
def test_files_that_are_elsewhere(street, damaged):
    """The transforms alone know how to get them."""
    backend = dict(backend_args=dict(backend='shelf'))
    pipeline = loaders(backend, backend)
    if damaged:
        truncate(street / IMAGE)
    else:
        pipeline.insert(2, dict(type='Fail', error=ValueError))
    data = seeded_dataset(street, max_unreadable=1, pipeline=pipeline)
    data.full_init()
    for info in data.dataset.data_list:
        for key in ('img_path', 'seg_map_path'):
            info[key] = info[key].replace('/street/', '/shelf/')
    if damaged:
        message, = draw(data)['data_samples'].unreadable
        assert f'/shelf/{IMAGE} cannot be read' in message
    else:
        with pytest.raises(ValueError, match='^mine$'):
            draw(data)


@pytest.mark.parametrize('error', [ValueError, AttributeError, AssertionError,
                                   OSError, cv2.error, KeyError, RuntimeError])
def test_errors_of_other_transforms_are_passed_on(street, error):
    """Where the usual readers could not read the file either."""
    write_floats(street)
    pipeline = loaders(dict(imdecode_backend='tifffile'))
    pipeline[2] = dict(type='Fail', error=error)
    data = seeded_dataset(street, max_unreadable=5, pipeline=pipeline)
    with pytest.raises(error) as caught:
        draw(data)
    assert caught.value.args == ('mine', )
    assert type(caught.value) is error
    assert caught.value.__cause__ is caught.value.__context__ is None


def test_wrong_settings_are_no_damage(street):
    data = seeded_dataset(street, max_unreadable=5, pipeline=loaders(
        labels=dict(reduce_zero_label=True)))
    with pytest.raises(AssertionError, match='reduce_zero_label'):
        draw(data)


def test_missing_file_is_not_skipped(street):
    (street / LABELS).unlink()
    with pytest.raises(FileNotFoundError, match=LABELS):
        draw(seeded_dataset(street, max_unreadable=5))


def test_datasets_in_datasets(street):
    truncate(street / LABELS)
    cfg = dict(type='RepeatDataset', times=2, dataset=dict(
        type='ConcatDataset', datasets=[
            dataset_cfg(street, 'val'), dataset_cfg(street)]))
    data = SeededDataset(DATASETS.build(cfg), max_unreadable=1)
    # The third of six, behind four of the validation.
    for index in (6, 16):
        message, = draw(data, index)['data_samples'].unreadable
        assert LABELS in message


def test_nothing_is_readable(street):
    for path in (street / 'img_dir/train').glob('*'):
        truncate(path)
    with pytest.raises(UnreadableImageError, match='max_unreadable=1'):
        draw(seeded_dataset(street, max_unreadable=1))


@pytest.mark.parametrize('workers', [0, 1])
def test_training_skips_and_names(street, tmp_path, workers):
    truncate(street / IMAGE)
    truncate(street / 'ann_dir/train/4.png')
    build_runner(street, tmp_path / 'work', max_iters=3, **{
        'train_cfg.type': 'ResumableTrainLoop',
        'train_cfg.max_unreadable': 2,
        'train_dataloader.num_workers': workers,
    }).train()
    log, = (tmp_path / 'work').rglob('*.log')
    for name in (IMAGE, 'ann_dir/train/4.png'):
        assert log.read_text().count(f'{name} cannot be read') == 1


@pytest.mark.parametrize('limit', [0, 1])
def test_training_stops_at_too_many(street, tmp_path, limit):
    names = [IMAGE, 'ann_dir/train/4.png'][:limit + 1]
    for name in names:
        truncate(street / name)
    runner = build_runner(street, tmp_path / 'work', max_iters=9, **{
        'train_cfg.type': 'ResumableTrainLoop',
        'train_cfg.max_unreadable': limit,
    })
    with pytest.raises(RuntimeError) as caught:
        runner.train()
    assert f'more than train_cfg.max_unreadable={limit}' in str(caught.value)
    assert all(name in str(caught.value) for name in names)


def test_all_our_datasets_name_files():
    ours = [part for part in vars(datasets).values() if isinstance(part, type)
            and issubclass(part, BaseSegDataset)]
    assert len(ours) == 6
    for part in ours:
        assert issubclass(part, NamedFiles), part
        assert part.prepare_data is NamedFiles.prepare_data, part


@pytest.mark.parametrize('name', ['img_dir/val/1.jpg', 'ann_dir/val/1.png'])
def test_validation_stops_by_name(street, tmp_path, name):
    truncate(street / name)
    classes = CamVidDataset.METAINFO['classes'][:5]
    runner = build_runner(street, tmp_path / 'work', **{
        'test_dataloader.dataset.type': 'CamVidDataset',
        'test_dataloader.dataset.metainfo': dict(classes=classes)})
    with pytest.raises(UnreadableImageError, match=f'{name} cannot be read'):
        runner.test()


@pytest.mark.parametrize('name', ['declared.png', 'declared.jpg', 'real.png'])
@pytest.mark.parametrize('kind', ['img', 'ann'])
def test_a_bomb_is_damaged(street, kind, name):
    """Pillow's label maps and OpenCV's images of 900 million pixels."""
    path = sorted((street / f'{kind}_dir/train').iterdir())[0]
    path.write_bytes(bombs()[name])
    dataset = DATASETS.build(street_dataset(street, pipeline=train_pipeline()))
    with pytest.raises(UnreadableImageError, match=f'{path} cannot be read'), \
            naming_damaged_files():
        dataset[0]
    with pytest.raises(ValueError, match=f'{path} cannot be read as a picture'):
        read_pixels(path)
