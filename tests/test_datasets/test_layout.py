"""A folder in the wrong layout says what was expected and what was found."""

import copy
import shutil
from functools import cache
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from layouts import LAYOUTS
from mmseg_semflow.datasets import check_layout
from tiny import semflow_cfg

CONFIGS = Path(__file__).parents[2] / 'configs'
# Its images, its label maps, and where the folders of a split lie.
EXPECTED = dict(
    cityscapes=('leftImg8bit/train/**/NAME_leftImg8bit.png',
                'gtFine/train/**/NAME_gtFine_labelTrainIds.png'),
    gta5=('images/**/NAME.png', 'labels/**/NAME_labelTrainIds.png'),
    coco_stuff164k=('images/train2017/**/NAME.jpg',
                    'annotations/train2017/**/NAME_labelTrainIds.png'),
    celebamask_hq=('img_dir/NAME.jpg', 'ann_dir/NAME.png, NAME from '),
    camvid=('img_dir/train/**/NAME.jpg', 'ann_dir/train/**/NAME.png'))
datasets = pytest.mark.parametrize('name', LAYOUTS)


@pytest.fixture
def root(tmp_path):
    return tmp_path / 'data'


@cache
def parse(name):
    return Config.fromfile(CONFIGS / f'semflow_{name}.py')


def dataset_cfg(name, root, split='train'):
    dataset = copy.deepcopy(parse(name))[f'{split}_dataloader'].dataset
    dataset.data_root = str(root)
    return dataset


def error_of(cfg):
    with pytest.raises(ValueError, match='no pair of an image and a') as caught:
        check_layout(cfg)
    return str(caught.value)


@datasets
def test_right_layout_passes(name, root):
    LAYOUTS[name](root)
    for split in ('train', 'val'):
        check_layout(dataset_cfg(name, root, split))


@datasets
def test_missing_folder(name, root):
    root.parent.joinpath('other').mkdir()
    message = error_of(dataset_cfg(name, root))
    images, labels = EXPECTED[name]
    assert f'data_root={str(root)!r}, see docs/datasets/{name}.md' in message
    assert f'expected: {root}/{images} and {root}/{labels}' in message
    assert f'found: there is no {root}/' in message
    assert message.endswith(f', {root.parent} holds other')
    assert (CONFIGS.parent / f'docs/datasets/{name}.md').is_file()


@datasets
def test_folder_that_was_unpacked_one_level_too_deep(name, root):
    LAYOUTS[name](root / 'unpacked')
    message = error_of(dataset_cfg(name, root))
    assert message.endswith(f'{root} holds unpacked')


@datasets
def test_images_without_label_maps(name, root):
    """Of Cityscapes and COCO-Stuff: nobody ran the converter."""
    LAYOUTS[name](root)
    folder = root / EXPECTED[name][1].split('/NAME')[0].removesuffix('/**')
    suffix = EXPECTED[name][1].split('NAME')[1].split(',')[0]
    for path in folder.rglob(f'*{suffix}'):
        path.rename(path.with_name('other.txt'))
    message = error_of(dataset_cfg(name, root))
    found = message.split('found: ')[1]
    assert found.startswith(f'there is no {folder}')
    assert f'{suffix}, ' in found and 'other.txt' in found


@datasets
def test_images_of_another_kind(name, root):
    LAYOUTS[name](root)
    folder = root / EXPECTED[name][0].split('/NAME')[0].removesuffix('/**')
    for path in folder.rglob('*.[jp][pn]g'):
        path.rename(path.with_suffix('.webp'))
    found = error_of(dataset_cfg(name, root)).split('found: ')[1]
    assert found.startswith(f'there is no {folder}/')
    assert f'{folder} holds ' in found
    assert ('aachen' if name == 'cityscapes' else '.webp') in found


def test_long_listings_are_cut(root):
    LAYOUTS['camvid'](root)
    shutil.rmtree(root / 'ann_dir')
    for i in range(20):
        (root / f'x{i:02d}').mkdir()
    message = error_of(dataset_cfg('camvid', root))
    assert message.endswith('holds img_dir, x00, x01, x02, x03, x04, x05, x06 '
                            'and 13 more')


def test_one_complete_pair_is_enough(root):
    LAYOUTS['camvid'](root)
    for sequence in ('0001TP', '0016E5'):
        (root / f'ann_dir/train/{sequence}_train.png').unlink()
    check_layout(dataset_cfg('camvid', root))


def test_any_dataset_of_mmsegmentation(root):
    cfg = dict(
        type='ADE20KDataset',
        data_root=str(root),
        data_prefix=dict(
            img_path='images/training', seg_map_path='annotations/training'))
    message = error_of(cfg)
    assert message.startswith('ADE20KDataset finds no pair')
    assert 'annotations/training/**/NAME.png' in message


@datasets
@pytest.mark.parametrize('wrong', ['train', 'val'])
def test_the_runner_says_it_before_the_training(name, wrong, root, tmp_path):
    LAYOUTS[name](root)
    cfg = copy.deepcopy(parse(name))
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.dataset.data_root = str(
            tmp_path / 'none' if split == wrong else root)
        loader.update(num_workers=0, persistent_workers=False)
    cfg.model = dict(type='SemFlow', semflow=semflow_cfg(codec=dict(cfg.codec)))
    cfg.custom_hooks = []
    cfg.work_dir = cfg.experiment_name = str(tmp_path / 'work')
    cfg.log_level = 'WARNING'
    runner = Runner.from_cfg(cfg)
    with pytest.raises(ValueError, match='expected: .*\nfound: there is no'):
        runner.train()
    assert not list(tmp_path.rglob('*.pth'))
