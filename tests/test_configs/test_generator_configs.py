"""The generators of the comparison learn and draw by their own configs."""

import cv2
import numpy as np
import pytest
import torch
from mmengine.runner import Runner
from shipped import factor, load, on_disk, read, shrink_networks

from tiny import run_test

GANS = ('pix2pix', 'cyclegan', 'pix2pixhd', 'spade', 'scgan')


@pytest.fixture
def camvid(tmp_path, monkeypatch):
    """Write two pairs per split as the configs expect them."""
    rng = np.random.default_rng(0)
    for split in ('train', 'val'):
        for kind, levels, channels, suffix in (('img_dir', 256, 3, 'jpg'),
                                               ('ann_dir', 11, 1, 'png')):
            folder = tmp_path / 'camvid' / kind / split
            folder.mkdir(parents=True)
            for i in range(2):
                picture = rng.integers(
                    0, levels, (120, 160, channels), dtype=np.uint8)
                cv2.imwrite(str(folder / f'{i}.{suffix}'), picture)
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    return tmp_path / 'camvid'


@pytest.mark.parametrize('name', [*GANS, 'bbdm'])
def test_config_trains_and_tests_by_its_own_pipeline(name, camvid, tmp_path):
    pytest.importorskip('mmagic')
    cfg = shrink_networks(load(f'comparison/{name}_camvid'))
    if name == 'bbdm':
        cfg.model.test_cfg.num_steps = 2
    cfg = on_disk(cfg, camvid, tmp_path / 'work')
    cfg.train_dataloader.batch_size = 1
    runner = Runner.from_cfg(cfg)
    runner.train()
    found = run_test(runner)
    assert found.keys() == {'diversity', 'brightness', 'gt_brightness'}
    pictures = list((tmp_path / 'work').rglob('vis_image/*.png'))
    assert cv2.imread(str(pictures[0])).shape == (96, 256, 3)


@pytest.mark.parametrize('name', GANS)
def test_budget_is_that_of_the_comparison(name):
    """Images, batch and iterations are the compared methods'."""
    cfg = read(f'comparison/{name}_camvid')
    other = read('comparison/segformer_b0_camvid')
    assert cfg.train_cfg == other.train_cfg
    assert cfg.train_dataloader.batch_size == other.train_dataloader.batch_size
    assert cfg.train_pipeline == other.train_pipeline
    assert cfg.crop_size == other.crop_size == cfg.model.test_cfg.size
    assert cfg.codec.num_classes == other.model.decode_head.num_classes


def test_rates_are_constant_and_then_fall():
    cfg = read('comparison/spade_camvid')
    for i in range(2600):
        assert factor(cfg.param_scheduler, i) == pytest.approx(
            min(1, (2600 - i) / 1300), abs=1e-3)
