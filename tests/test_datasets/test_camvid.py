"""CamVid itself, where a local folder has it."""

import os
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS

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
