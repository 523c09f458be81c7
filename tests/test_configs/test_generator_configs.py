"""The generators of the comparison learn and draw by their own configs."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.runner import Runner

from tiny import UNET, run_test

pytest.importorskip('mmagic')

COMPARISON = Path(__file__).parents[2] / 'configs/comparison'
GANS = ('pix2pix', 'cyclegan', 'pix2pixhd', 'spade', 'scgan')


def shrink(cfg):
    """Make networks tiny, of the same kind."""
    if 'semflow' in cfg.model:
        net = cfg.model.semflow.velocity_net
        net.unet = dict(
            UNET,
            in_channels=net.unet.in_channels,
            out_channels=net.unet.out_channels)
        cfg.model.test_cfg.num_steps = 2
        return cfg
    generator, discriminator = cfg.model.generator, cfg.model.discriminator
    if 'channels' in generator:
        generator.channels = [4] * len(generator.channels)
    else:
        generator.base_channels = 4
    discriminator.get('patch', discriminator).base_channels = 4
    return cfg


@pytest.fixture
def camvid(tmp_path, monkeypatch):
    """Two pairs a split where the configs look for them."""
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
    monkeypatch.setenv('CAMVID', str(tmp_path / 'camvid'))
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))


@pytest.mark.parametrize('name', [*GANS, 'bbdm'])
def test_config_trains_and_tests_by_its_own_pipeline(name, camvid, tmp_path):
    cfg = shrink(Config.fromfile(COMPARISON / f'{name}_camvid.py'))
    cfg.work_dir = cfg.experiment_name = str(tmp_path / 'work')
    cfg.log_level = 'WARNING'
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].update(
            batch_size=1, num_workers=0, persistent_workers=False)
    cfg.train_cfg.update(max_iters=1, val_interval=1)
    runner = Runner.from_cfg(cfg)
    runner.train()
    found = run_test(runner)
    assert found.keys() == {'diversity', 'brightness', 'gt_brightness'}
    pictures = list((tmp_path / 'work').rglob('vis_image/*.png'))
    assert cv2.imread(str(pictures[0])).shape == (96, 256, 3)


@pytest.mark.parametrize('name', GANS)
def test_budget_is_that_of_the_comparison(name):
    """Images, batch and iterations are the compared methods'."""
    cfg = Config.fromfile(COMPARISON / f'{name}_camvid.py')
    other = Config.fromfile(COMPARISON / 'segformer_b0_camvid.py')
    assert cfg.train_cfg == other.train_cfg
    assert cfg.train_dataloader.batch_size == other.train_dataloader.batch_size
    assert cfg.train_pipeline == other.train_pipeline
    assert cfg.crop_size == other.crop_size == cfg.model.test_cfg.size
    assert cfg.codec.num_classes == other.model.decode_head.num_classes


def test_rates_are_constant_and_then_fall():
    cfg = Config.fromfile(COMPARISON / 'spade_camvid.py')
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.)
    scheduler, = (
        PARAM_SCHEDULERS.build(dict(part, optimizer=optimizer))
        for part in cfg.param_scheduler)
    for i in range(2600):
        expected = min(1, (2600 - i) / 1300)
        assert optimizer.param_groups[0]['lr'] == pytest.approx(
            expected, abs=1e-3)
        optimizer.step()
        scheduler.step()
