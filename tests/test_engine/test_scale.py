"""Two processes against one: DDP, FSDP and DeepSpeed by the recipes' configs.

All train the same 40 samples in 10 steps of 4, with the same draws (draws.py),
by the runner that tools/train.py builds.
"""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.distributed as dist
from diffusers import AutoencoderKL, UNet2DConditionModel
from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import CheckpointLoader, Runner
from torch.multiprocessing import start_processes

from tiny import UNET, VAE

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(
        torch.cuda.is_available(), reason='trains in two processes on the CPU')
]
ROOT = Path(__file__).parents[2]
CONFIG = f'''
_base_ = '{ROOT}/configs/NAME.py'
custom_imports = dict(imports=['mmseg_semflow.models', 'draws'])
model = dict(test_cfg=dict(num_steps=1), semflow=dict(
    network=dict(
        sd_folder=None, unet_weights='unet.pth',
        unet=dict(_delete_=True, **{UNET})),
    autoencoder=dict(sd_folder='sd', vae=dict(_delete_=True, **{VAE}))))
pipeline = _base_.train_pipeline
pipeline[1]['scale'] = pipeline[3]['scale'] = (64, 32)
pipeline.insert(0, dict(type='SeedByFile'))
test_pipeline = _base_.test_pipeline
test_pipeline[1]['scale'] = (64, 32)
train_dataloader = dict(
    batch_size=BATCH_SIZE, num_workers=0, persistent_workers=False,
    sampler=dict(shuffle=False), dataset=dict(pipeline=pipeline))
train_cfg = dict(max_iters=10, val_interval=5)
param_scheduler = [dict(
    type='LinearLR', start_factor=0.1, begin=0, end=5, by_epoch=False)]
val_dataloader = dict(
    num_workers=0, persistent_workers=False,
    dataset=dict(pipeline=test_pipeline))
test_cfg = test_dataloader = test_evaluator = None
default_hooks = dict(
    logger=dict(interval=1), checkpoint=dict(interval=5))
custom_hooks = _base_.custom_hooksHOOKS + [dict(type='DrawByImage')]
'''


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Write 8 pairs in the layout of Cityscapes, and weights to start from."""
    folder = tmp_path_factory.mktemp('scale')
    torch.manual_seed(0)
    torch.save(UNet2DConditionModel(**UNET).state_dict(), folder / 'unet.pth')
    AutoencoderKL(**VAE).save_pretrained(folder / 'sd/vae')
    rng = np.random.default_rng(0)
    root = folder / 'data/cityscapes'
    for kind in ('leftImg8bit', 'gtFine'):
        for split in ('train', 'val'):
            (root / kind / split / 'bonn').mkdir(parents=True)
    # An odd number to validate, of which one process gets one more.
    for i, split in enumerate(['train'] * 8 + ['val'] * 3):
        name = f'{split}/bonn/bonn_{i:06d}_000019'
        cv2.imwrite(f'{root}/leftImg8bit/{name}_leftImg8bit.png',
                    rng.integers(0, 256, (32, 64, 3), np.uint8))
        cv2.imwrite(f'{root}/gtFine/{name}_gtFine_labelTrainIds.png',
                    rng.integers(0, 19, (32, 64), np.uint8))
    return folder


def _train(rank, folder, name, processes, work_dir, resume, options):
    os.chdir(folder)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes))
    if processes > 1:
        dist.init_process_group(
            'gloo', init_method=f'file://{folder}/{work_dir}_{resume}.group',
            rank=rank, world_size=processes)
    cfg = Config.fromfile(f'{name}_{processes}.py')
    cfg.merge_from_dict(options)
    cfg.update(
        work_dir=work_dir, resume=resume, log_level='WARNING',
        launcher='pytorch' if processes > 1 else 'none')
    runner = (RUNNERS.build if 'runner_type' in cfg else Runner.from_cfg)(cfg)
    runner.train()
    if processes > 1:
        dist.destroy_process_group()


def train(folder, name, processes, work_dir, options=None, resume=False):
    """Train a config in forked processes, which share the loaded libraries."""
    config = folder / f'{name}_{processes}.py'
    # SynthesisEvalHook, the second, draws at full size. FSDP does without it.
    hooks = '' if name.endswith('_fsdp') else '[:1]'
    text = CONFIG.replace('NAME', name).replace('HOOKS', hooks)
    config.write_text(text.replace('BATCH_SIZE', str(4 // processes)))
    start_processes(
        _train, (folder, name, processes, work_dir, resume, options or {}),
        nprocs=processes, start_method='fork')


def weights(path):
    return CheckpointLoader.load_checkpoint(str(path), 'cpu')['state_dict']


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(
            found[key], value, atol=1e-6, rtol=1e-4, msg=key)


FLOAT32 = {'optim_wrapper.dtype': 'float32'}


@pytest.fixture(scope='module')
def expected(folder):
    """The weights after 10 steps of one process with the doubled batch."""
    train(folder, 'semflow_cityscapes', 1, 'one', FLOAT32)
    start, end = (weights(folder / f'one/iter_{i}.pth') for i in (5, 10))
    key = 'semflow.network.unet.conv_in.weight'
    assert (end[key] - start[key]).abs().mean() > 1e-5
    return end


def test_ddp_equals_the_doubled_batch(folder, expected):
    train(folder, 'semflow_cityscapes', 2, 'ddp', FLOAT32)
    assert_same(weights(folder / 'ddp/iter_10.pth'), expected)


def test_fsdp_equals_the_doubled_batch(folder, expected):
    """Stopped after 5 steps and resumed, with checkpoints as of one process."""
    name = 'semflow_cityscapes_fsdp'
    train(folder, name, 2, 'fsdp', {**FLOAT32, 'train_cfg.max_iters': 5})
    train(folder, name, 2, 'fsdp', FLOAT32, resume=True)
    assert_same(weights(folder / 'fsdp/iter_10.pth'), expected)


def test_deepspeed_equals_the_doubled_batch(folder, expected):
    """Stopped after 5 steps and resumed; its folder makes a plain checkpoint."""
    pytest.importorskip('deepspeed')
    from deepspeed.utils.zero_to_fp32 import (
        get_fp32_state_dict_from_zero_checkpoint,
    )
    name = 'semflow_cityscapes_deepspeed'
    options = {'strategy.bf16.enabled': False}
    train(folder, name, 2, 'zero', {**options, 'train_cfg.max_iters': 5})
    train(folder, name, 2, 'zero', options, resume=True)
    assert_same(
        get_fp32_state_dict_from_zero_checkpoint(
            folder / 'zero', tag='iter_10.pth'), expected)
