"""The converters, on small folders like the original distributions."""

import os
import runpy
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmseg.registry import DATASETS
from PIL import Image

from mmseg_semflow.datasets import CamVidDataset, CelebAMaskHQDataset
from mmseg_semflow.datasets.camvid import GROUPS, convert_camvid, group_colors
from mmseg_semflow.datasets.celebamask_hq import (
    MAPPING,
    convert_celebamask_hq,
    merge_parts,
    read_splits,
)
from mmseg_semflow.datasets.gta5 import convert_gta5

ROOT = Path(__file__).parents[2]
CLASSES = CelebAMaskHQDataset.METAINFO['classes']
SPLITS = dict(train=[0, 2001], val=[1], test=[2])
processes = pytest.mark.parametrize(
    'nproc', [1, pytest.param(2, marks=pytest.mark.process)])


@pytest.fixture
def tool(monkeypatch, capsys):
    """Run a converter like its command line; returns what it printed."""

    def run(name, *args):
        path = str(ROOT / f'tools/dataset_converters/{name}.py')
        monkeypatch.setattr(sys, 'argv', [path, *map(str, args)])
        runpy.run_path(path, run_name='__main__')
        return capsys.readouterr().out

    return run


def written(folder):
    return {
        path: path.stat().st_mtime_ns
        for path in folder.rglob('*') if path.is_file()
    }


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels)


def mask_path(root, index, part):
    return (root / f'CelebAMask-HQ-mask-anno/{index // 2000}' /
            f'{index:05d}_{part}.png')


@pytest.fixture
def faces(tmp_path):
    """Four faces of 32 x 32 with masks of 16 x 16, like the archive's."""
    root = tmp_path / 'CelebAMask-HQ'
    celeba = {0: 119613, 1: 162771, 2: 182638, 2001: 162770}
    lines = ['idx     orig_idx    orig_file    ']
    for index, original in celeba.items():
        lines.append(f'{index}  {original}  {original + 1:06d}.jpg   ')
        rng = np.random.default_rng(index)
        small = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        save(root / f'CelebA-HQ-img/{index}.jpg',
             small.repeat(8, 0).repeat(8, 1))
        for part, box in dict(
                skin=(2, 14), hair=(0, 6), l_eye=(7, 9)).items():
            mask = np.zeros((16, 16, 3), np.uint8)
            mask[slice(*box), slice(*box)] = 255
            save(mask_path(root, index, part), mask)
    (root / MAPPING).write_text('\n'.join(lines) + '\n')
    return root


def test_later_classes_lie_over_earlier_ones(faces):
    labels = merge_parts(faces / 'CelebAMask-HQ-mask-anno', 2001)
    expected = np.zeros((16, 16), np.uint8)
    for part, box in dict(skin=(2, 14), l_eye=(7, 9), hair=(0, 6)).items():
        expected[slice(*box), slice(*box)] = CLASSES.index(part)
    assert labels.dtype == np.uint8 and np.array_equal(labels, expected)


def test_every_part_has_its_class(faces):
    for label, part in enumerate(CLASSES[1:], 1):
        mask = np.zeros(16 * 16, np.uint8)
        mask[label] = 255
        save(mask_path(faces, 3000, part), mask.reshape(16, 16))
    labels = merge_parts(faces / 'CelebAMask-HQ-mask-anno', 3000).ravel()
    assert labels[:19].tolist() == list(range(19)) and not labels[19:].any()


@processes
def test_faces_through_the_tool_to_the_recipe(faces, tool, tmp_path, nproc):
    out = tmp_path / 'data'
    assert 'is complete' in tool(
        'celebamask_hq', faces, '-o', out, '--nproc', nproc)
    for split, indices in SPLITS.items():
        cfg = Config.fromfile(ROOT / 'configs/semflow_celebamask_hq.py')
        cfg = cfg[f'{split}_dataloader'].dataset
        dataset = DATASETS.build(dict(cfg, data_root=str(out)))
        names = [
            Path(dataset.get_data_info(i)['img_path']).stem
            for i in range(len(dataset))
        ]
        assert sorted(map(int, names)) == indices
        sample = dataset[0]['data_samples']
        # Evaluated at the size of the masks.
        assert sample.ori_shape == (16, 16)
        assert set(np.unique(sample.gt_sem_seg.data)) == {
            0, CLASSES.index('skin'), CLASSES.index('hair'),
            CLASSES.index('l_eye')
        }
    image = cv2.imread(str(out / 'img_dir/0.jpg'))
    original = cv2.imread(str(faces / 'CelebA-HQ-img/0.jpg'))
    assert image.shape == (16, 16, 3)
    assert np.abs(image.astype(int) - original[1::2, 1::2]).mean() < 12


def test_conversion_continues_and_keeps_what_is_there(faces, tmp_path):
    out = tmp_path / 'data'
    broken = mask_path(faces, 2, 'hair')
    whole = broken.read_bytes()
    broken.write_bytes(whole[:len(whole) // 2])
    with pytest.raises(ValueError, match='00002_hair.png cannot be read as a'):
        convert_celebamask_hq(faces, out)
    assert not (out / 'train.txt').exists()
    before = written(out)
    assert before and not list(out.rglob('*/2.*'))
    broken.write_bytes(whole)
    convert_celebamask_hq(faces, out)
    after = written(out)
    assert before.items() <= after.items()
    assert len(after) == 2 * 4 + 3
    assert not [path for path in after if path.name.startswith('.')]
    (out / 'ann_dir/1.png').unlink()
    convert_celebamask_hq(faces, out)
    assert written(out).keys() == after.keys()


def test_nothing_half_written(faces, tmp_path, monkeypatch):
    out = tmp_path / 'data'

    def full(descriptor):
        raise OSError(28, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(os, 'fsync', full)
        with pytest.raises(OSError, match='0.jpg cannot .*No space left'):
            convert_celebamask_hq(faces, out)
    assert not written(out)


def wrong_size(root):
    save(mask_path(root, 1, 'nose'), np.zeros((8, 8), np.uint8))


def no_masks(root):
    for path in root.rglob('00001_*.png'):
        path.unlink()


def no_image(root):
    (root / 'CelebA-HQ-img/1.jpg').unlink()


def half_an_image(root):
    path = root / 'CelebA-HQ-img/1.jpg'
    path.write_bytes(path.read_bytes()[:-200])


def no_mapping(root):
    (root / MAPPING).unlink()


def bad_mapping(root):
    with (root / MAPPING).open('a') as file:
        file.write('3 000004.jpg\n')


@pytest.mark.parametrize('harm, message', [
    (wrong_size, r'00001_nose.png must have the size .*\(8, 8\)'),
    (no_masks, 'image 1 needs masks, but there is no .*0/00001_'),
    (no_image, 'there is no .*CelebA-HQ-img/1.jpg, .*CelebA-HQ-img holds 0.jpg'),
    (half_an_image, 'CelebA-HQ-img/1.jpg cannot be read as a picture'),
    (no_mapping, f'there is no .*{MAPPING}, .* holds CelebA-HQ-img, '),
    (bad_mapping, "mapping.txt, line 6 must be an index, .* '3 000004.jpg'")
])
def test_wrong_faces_are_named(faces, tmp_path, harm, message):
    harm(faces)
    with pytest.raises(ValueError, match=message):
        convert_celebamask_hq(faces, tmp_path / 'data')


@processes
def test_tool_names_what_is_missing(faces, tool, tmp_path, nproc):
    no_image(faces)
    with pytest.raises(SystemExit, match='error: there is no .*1.jpg'):
        tool('celebamask_hq', faces, '-o', tmp_path / 'data', '--nproc', nproc)


def test_splits_are_those_of_celeba(faces):
    assert read_splits(faces / MAPPING) == dict(
        train=[0, 2001], val=[1], test=[2])


@pytest.fixture
def scenes(tmp_path):
    """One scene a split, with a stripe of each of the 32 colours."""
    root = tmp_path / 'camvid_original'
    colors = [(0, 0, 0)] + [c for group in GROUPS.values() for c in group.values()]
    stripes = np.array(colors, np.uint8)[None, :, ::-1].repeat(30, 1).repeat(720, 0)
    for split, name in dict(
            train='0001TP_006690', val='0016E5_07959', test='Seq05VD_f00000').items():
        save(root / f'701_StillsRaw_full/{name}.png',
             np.full((720, 960, 3), (10, 100, 200), np.uint8))
        save(root / f'LabeledApproved_full/{name}_L.png', stripes)
        (root / f'{split}.txt').write_text(
            f'/SegNet/CamVid/{split}/{name}.png '
            f'/SegNet/CamVid/{split}annot/{name}.png\n')
    return root


def test_groups_are_in_the_order_of_the_dataset():
    assert tuple(GROUPS) == CamVidDataset.METAINFO['classes']
    colors = [c for group in GROUPS.values() for c in group.values()]
    assert len({*colors, (0, 0, 0)}) == 32
    # Where a class has a namesake in the original, it has its colour.
    palette = dict(
        zip(CamVidDataset.METAINFO['classes'],
            map(tuple, CamVidDataset.METAINFO['palette']), strict=True))
    for name, group in GROUPS.items():
        assert group.get(name, palette[name]) == palette[name]


def test_colors_become_labels():
    names = dict(
        Sky=(128, 128, 128), Bridge=(0, 128, 64), TrafficLight=(0, 64, 64),
        MotorcycleScooter=(192, 0, 192), Void=(0, 0, 0), none=(1, 2, 3))
    pixels = np.array([list(names.values())], np.uint8)[..., ::-1]
    assert group_colors(pixels).tolist() == [[0, 1, 6, 10, 255, 254]]


def test_scenes_through_the_tool_to_the_recipe(scenes, tool, tmp_path,
                                               monkeypatch):
    out = tmp_path / 'data'
    printed = tool('camvid', scenes, '--splits', scenes, '-o', out)
    assert 'is complete' in printed and 'unknown' not in printed
    before = written(out)
    assert len(before) == 6
    monkeypatch.setenv('CAMVID', str(out))
    cfg = Config.fromfile(ROOT / 'configs/semflow_camvid.py')
    sample, = DATASETS.build(cfg.val_dataloader.dataset)
    labels = sample['data_samples'].gt_sem_seg.data[0]
    assert sample['data_samples'].ori_shape == labels.shape == (360, 480)
    expected = [255] + [
        label for label, group in enumerate(GROUPS.values()) for _ in group
    ]
    assert labels[0, ::15].tolist() == labels[-1, 14::15].tolist() == expected
    color = sample['inputs'].float().mean((1, 2))
    assert color.tolist() == pytest.approx([10, 100, 200], abs=2)
    assert convert_camvid(scenes, scenes, out) == []
    assert written(out) == before


@pytest.mark.parametrize('pixels, outcome', [(5, 'void'), (72000, 'error')])
def test_unknown_colors(scenes, tmp_path, pixels, outcome):
    path = scenes / 'LabeledApproved_full/0016E5_07959_L.png'
    labels = cv2.imread(str(path))
    labels.reshape(-1, 3)[:pixels] = 1, 2, 3
    save(path, labels)
    if outcome == 'error':
        with pytest.raises(ValueError, match='07959_L.png must have .* 10% of'):
            convert_camvid(scenes, scenes, tmp_path / 'data')
    else:
        warning, = convert_camvid(scenes, scenes, tmp_path / 'data')
        assert '07959_L.png: 0.001% of unknown colours are void' in warning
        found = cv2.imread(
            str(tmp_path / 'data/ann_dir/val/0016E5_07959.png'), -1)
        assert found.max() == 255 and 254 not in found


def test_missing_scenes_are_named(scenes, tmp_path):
    shutil.rmtree(scenes / 'LabeledApproved_full')
    with pytest.raises(ValueError, match='no .*LabeledApproved_full, .* holds 701'):
        convert_camvid(scenes, scenes, tmp_path / 'data')
    with pytest.raises(ValueError, match='there is no .*none/train.txt'):
        (scenes / 'LabeledApproved_full').mkdir()
        convert_camvid(scenes, tmp_path / 'none', tmp_path / 'data')


@pytest.fixture
def game(tmp_path):
    """GTA5's folder: the IDs of Cityscapes as pictures of a palette."""
    root = tmp_path / 'gta5'
    ids = np.arange(35, dtype=np.uint8).reshape(5, 7)
    for name in ('00001', '00002'):
        save(root / f'images/{name}.png', np.zeros((5, 7, 3), np.uint8))
        picture = Image.fromarray(ids, mode='P')
        picture.putpalette([number * 7 % 256 for number in range(768)])
        (root / 'labels').mkdir(exist_ok=True)
        picture.save(root / f'labels/{name}.png')
    return root


def test_a_game_through_the_tool_to_the_recipe(game, tool, tmp_path):
    assert '2 label maps' in tool('gta5', game)
    cfg = Config.fromfile(ROOT / 'configs/semflow_gta5.py')
    dataset = DATASETS.build(
        dict(
            cfg.train_dataloader.dataset, data_root=str(game),
            pipeline=[dict(type='LoadAnnotations')]))
    assert len(dataset) == 2
    labels = dataset[0]['gt_seg_map'].ravel()
    # cityscapesscripts' labels with a trainId.
    names = dict(
        road=7, sidewalk=8, building=11, wall=12, fence=13, pole=17,
        traffic_light=19, traffic_sign=20, vegetation=21, terrain=22, sky=23,
        person=24, rider=25, car=26, truck=27, bus=28, train=31, motorcycle=32,
        bicycle=33)
    classes = dataset.metainfo['classes']
    for number in range(35):
        found = labels[number]
        name = None if found == 255 else classes[found].replace(' ', '_')
        assert names.get(name) == (number if number in names.values() else None)
    before = written(game)
    (game / 'labels/00002_labelTrainIds.png').unlink()
    tool('gta5', game)
    first = game / 'labels/00001_labelTrainIds.png'
    assert written(game).keys() == before.keys()
    assert written(game)[first] == before[first]


def test_wrong_games_are_named(game, tmp_path):
    save(game / 'labels/00002.png', np.full((5, 7), 35, np.uint8))
    with pytest.raises(ValueError, match=r'00002.png must hold the IDs .* up to 35'):
        convert_gta5(game)
    save(game / 'labels/00002.png', np.zeros((5, 7, 3), np.uint8))
    with pytest.raises(ValueError, match=r'00002.png must .* shape \(5, 7, 3\)'):
        convert_gta5(game)
    shutil.rmtree(game / 'labels')
    with pytest.raises(ValueError, match='there is no .*labels'):
        convert_gta5(game)
    (game / 'labels').mkdir()
    with pytest.raises(ValueError, match='labels holds no label maps NAME.png'):
        convert_gta5(game)


def test_mmsegmentations_own_converters(tool, tmp_path):
    """They run; that of COCO-Stuff takes nothing but all 123,287 images."""
    for split in ('train2017', 'val2017'):
        save(tmp_path / f'annotations/{split}/1.png', np.zeros((4, 4), np.uint8))
    with pytest.raises(AssertionError, match='Wrong length of list 1 & 1'):
        tool('coco_stuff164k', tmp_path)
    pytest.importorskip('cityscapesscripts')
    with pytest.raises(FileNotFoundError, match='gtFine'):
        tool('cityscapes', tmp_path)
