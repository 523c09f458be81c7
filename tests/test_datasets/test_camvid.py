"""CamVid: the choice of drives; and itself, where a local folder has it."""

import os
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS

from layouts import write_camvid
from mmseg_semflow.datasets.camvid import sequence_of
from mmseg_semflow.generation.downstream import Downstream

ROOT = Path(__file__).parents[2]
CAMVID = Path(os.environ.get('CAMVID', ROOT / '../shared/data/camvid')).resolve()

needs_camvid = pytest.mark.skipif(
    not CAMVID.is_dir(), reason=f'CamVid is not at {CAMVID}; set CAMVID')


@pytest.fixture
def cfg(monkeypatch):
    monkeypatch.setenv('CAMVID', str(CAMVID))
    cfg = Config.fromfile(ROOT / 'configs/semflow_camvid.py')
    init_default_scope(cfg.default_scope)
    return cfg


def names_of(root, sequences, split=''):
    dataset = DATASETS.build(
        dict(
            type='mmseg.CamVidDataset',
            data_root=str(root),
            data_prefix=dict(
                img_path=f'img_dir/{split}', seg_map_path=f'ann_dir/{split}'),
            filter_cfg=sequences,
            pipeline=[]))
    return sorted(
        Path(dataset.get_data_info(i)['img_path']).stem for i in range(len(dataset)))


def test_drives_are_chosen_by_name(tmp_path):
    write_camvid(tmp_path)
    assert len(names_of(tmp_path, None, 'train')) == 3
    assert names_of(tmp_path, dict(sequences=['0001TP', '0006R0']),
                    'train') == ['0001TP_train', '0006R0_train']
    assert names_of(tmp_path, dict(sequences=['0016E5'])) == [
        '0016E5_train', '0016E5_val'
    ]


def test_wrong_choice_of_drives(tmp_path):
    write_camvid(tmp_path)
    with pytest.raises(
            ValueError,
            match=r"of \['0001TP', '0006R0', '0016E5'\], which .*img_dir/train has, "
            "but got '0016E'"):
        names_of(tmp_path, dict(sequences=['0016E']), 'train')
    with pytest.raises(ValueError, match="sequences, but got 'sequence'"):
        names_of(tmp_path, dict(sequence=['0016E5']), 'train')


@needs_camvid
@pytest.mark.parametrize('method', ['segformer_b0', 'maskformer', 'fcn_unet'])
def test_unseen_drive_takes_nothing_of_the_training(monkeypatch, method):
    monkeypatch.setenv('CAMVID', str(CAMVID))
    cfg = Config.fromfile(
        ROOT / f'configs/comparison/{method}_unseen_drive_camvid320.py')
    init_default_scope(cfg.default_scope)
    train, test = (DATASETS.build(cfg[f'{split}_dataloader'].dataset)
                   for split in ('train', 'test'))
    assert len(train) == 163 and len(test) == 305
    drives = [{
        sequence_of(dataset.get_data_info(i)['img_path'])
        for i in range(len(dataset))
    } for dataset in (train, test)]
    assert drives == [{'0001TP', '0006R0'}, {'0016E5'}]


@needs_camvid
@pytest.mark.parametrize('split, count', [('train', 367), ('val', 101)])
def test_every_image_has_its_mask(cfg, split, count):
    dataset = DATASETS.build(cfg[f'{split}_dataloader'].dataset)
    assert len(dataset) == count
    for info in dataset.load_data_list():
        assert Path(info['img_path']).is_file()
        assert Path(info['seg_map_path']).is_file()


@needs_camvid
def test_real_labels_through_the_training_pipeline(cfg):
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    count = np.zeros(256, np.int64)
    for i in range(0, len(dataset), 40):
        item = dataset[i]
        labels = item['data_samples'].gt_sem_seg.data.numpy()
        assert item['inputs'].shape[1:] == labels.shape[1:]
        count += np.bincount(labels.ravel(), minlength=256)
    assert count[11:255].sum() == 0 and (count[:11] > 0).all()
    # Roads and buildings cover most of a road scene.
    assert (count[1] + count[3]) / count.sum() > 0.3


@needs_camvid
def test_prediction_has_the_size_of_the_labels(cfg):
    item = DATASETS.build(cfg.val_dataloader.dataset)[0]
    sample = item['data_samples']
    assert sample.gt_sem_seg.shape == sample.ori_shape == (360, 480)


def test_dusk_is_tested_and_not_trained():
    cfgs = [Config.fromfile(ROOT / f'configs/comparison/{name}.py') for name in (
        'semflow_by_day_camvid320', 'segformer_b0_by_day_camvid',
        'fcn_unet_by_day_camvid')]
    generator, *segmentors = (cfg.train_dataloader.dataset for cfg in cfgs)
    for dataset in (generator.dataset, *segmentors):
        assert dataset.filter_cfg.sequences == ['0006R0', '0016E5']
        assert dataset.data_prefix.img_path == 'img_dir/train'
    for cfg in cfgs:
        test = cfg.test_dataloader.dataset
        assert test.filter_cfg.sequences == ['0001TP']
        assert test.data_prefix.img_path == 'img_dir/train'
        assert test.data_prefix.seg_map_path == 'ann_dir/train'


@pytest.mark.parametrize('name, share', [('tenth', 0.1), ('quarter', 0.25)])
def test_a_generator_of_few_labels_has_seen_no_more(tmp_path, name, share):
    """It trains on the pictures that tools/downstream.py --share takes."""
    for folder in ('img_dir/train', 'ann_dir/train'):
        (tmp_path / folder).mkdir(parents=True)
    for number in range(367):
        (tmp_path / f'img_dir/train/{number:03d}.jpg').touch()
        (tmp_path / f'ann_dir/train/{number:03d}.png').touch()
    (tmp_path / 'generated/img_dir/train').mkdir(parents=True)
    (tmp_path / 'generated/ann_dir/train').mkdir(parents=True)
    (tmp_path / 'generated/img_dir/train/0.png').touch()
    (tmp_path / 'generated/ann_dir/train/0.png').touch()
    (tmp_path / 'generated/dataset.py').write_text('''
generated_dataset = dict(
    type='CamVidDataset', data_root='.', img_suffix='.png', data_prefix=dict(
        img_path='img_dir/train', seg_map_path='ann_dir/train'))
''')
    cfg = Config.fromfile(ROOT / 'configs/comparison/segformer_b0_camvid.py')
    cfg.train_dataloader.dataset.data_root = str(tmp_path)
    downstream = Downstream(
        cfg, tmp_path / 'generated', tmp_path / 'work', share=share)
    generator = Config.fromfile(
        ROOT / f'configs/comparison/semflow_{name}_camvid320.py')
    assert generator.train_dataloader.dataset.dataset.indices == \
        downstream.dataset('real').indices
