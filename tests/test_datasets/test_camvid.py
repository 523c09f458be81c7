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
def test_unseen_drive_takes_nothing_of_the_training(monkeypatch):
    monkeypatch.setenv('CAMVID', str(CAMVID))
    cfg = Config.fromfile(
        ROOT / 'configs/comparison/segformer_b0_unseen_drive_camvid320.py')
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
