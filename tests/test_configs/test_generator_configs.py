"""The generators of the comparison learn and draw by their own configs."""

import cv2
import pytest
import torch
from mmengine.registry import MODELS
from mmengine.runner import Runner
from shipped import (
    COMPARED,
    ROWS,
    factor,
    lay_out,
    load,
    on_disk,
    read,
    shrink_networks,
    small,
)

from tiny import run_test

GANS = ('pix2pix', 'cyclegan', 'pix2pixhd', 'spade', 'scgan')
GENERATORS = [name for name in COMPARED if read(name).default_scope == 'mmagic']
# Of their authors, but for data and epochs where they have none on these data: batch,
# epochs, training images, rates of generator and discriminator, betas.
PUBLISHED = dict(
    pix2pixhd_celebamask_hq=(1, 200, 24183, 2e-4, 2e-4, (0.5, 0.999)),
    spade_celebamask_hq=(8, 100, 24183, 1e-4, 4e-4, (0., 0.9)),
    scgan_celebamask_hq=(8, 100, 24183, 1e-4, 4e-4, (0., 0.999)),
    cyclegan_cityscapes=(1, 200, 2975, 2e-4, 2e-4, (0.5, 0.999)))
published = pytest.mark.parametrize('name', PUBLISHED)


@pytest.mark.parametrize('name', GENERATORS)
def test_config_trains_and_tests_by_its_own_pipeline(name, tmp_path, monkeypatch):
    pytest.importorskip('mmagic')
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    data, cfg = lay_out(name, tmp_path / 'data'), load(name)
    if name in ROWS:
        cfg = small(cfg, data, tmp_path / 'work')
    else:
        cfg = on_disk(shrink_networks(cfg), data, tmp_path / 'work')
        cfg.train_dataloader.batch_size = 1
    if 'bbdm' in name:
        cfg.model.test_cfg.num_steps = 2
    runner = Runner.from_cfg(cfg)
    runner.train()
    found = run_test(runner)
    assert found.keys() - {'relative_diversity'} == {
        'diversity', 'brightness', 'gt_brightness'}
    pictures = list((tmp_path / 'work').rglob('vis_image/*.png'))
    height, width = cfg.model.test_cfg.size
    # The real image, and the samples below each other.
    count = cfg.model.test_cfg.num_samples
    assert cv2.imread(str(pictures[0])).shape == (count * height, 2 * width, 3)


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


@published
def test_settings_of_a_gan_are_its_authors(name):
    batch, epochs, images, *rates, betas = PUBLISHED[name]
    cfg = read(f'comparison/{name}')
    total = cfg.train_cfg.max_iters
    assert cfg.train_dataloader.batch_size == batch
    assert total == epochs * images // batch
    for part, rate in zip(
            ('generators', 'discriminators'), rates, strict=True):
        assert cfg.optim_wrapper[part] == dict(
            type='OptimWrapper',
            optimizer=dict(type='Adam', lr=rate, betas=betas))
    for i in range(0, total, total // 99):
        assert factor(cfg.param_scheduler, i) == pytest.approx(
            min(1, 2 * (total - i) / total), abs=1e-5)
    # They see the pictures of SemFlow's recipe.
    recipe = read(f'semflow_{name.split("_", 1)[1]}')
    assert cfg.train_pipeline == recipe.train_pipeline
    assert cfg.test_pipeline == recipe.test_pipeline
    assert cfg.model.test_cfg.size == recipe.synthesis.size
    assert cfg.codec == recipe.codec


def convolutions(name, part):
    """List the widths of all convolutions of a GAN, without making them."""
    cfg = load(f'comparison/{name}').model[part]
    with MODELS.switch_scope_and_registry('mmagic') as models:
        with torch.device('meta'):
            network = models.build(cfg)
    return [
        module.out_channels for module in network.modules()
        if isinstance(module, (torch.nn.Conv2d, torch.nn.ConvTranspose2d))
    ]


@published
def test_a_gan_is_as_wide_as_published(name):
    pytest.importorskip('mmagic')
    widest = dict(pix2pixhd=1024, spade=1024, scgan=768, cyclegan=256)
    found = convolutions(name, 'generator')
    assert max(found) == widest[name.split('_')[0]] and found[-1] == 3
    scales = 1 if 'cyclegan' in name else 2
    assert convolutions(name, 'discriminator') == scales * [64, 128, 256, 512, 1]
