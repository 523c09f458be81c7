"""One step of each recipe, and of each row of the paper, with random weights.

Networks are at full size, which takes minutes and 16 GB of memory, so it runs only
when asked for: `pytest -m full_size`.
"""

import pytest
import torch
from mmengine.runner import Runner
from shipped import ROWS, lay_out, load, read
from test_recipes import RECIPES

pytestmark = pytest.mark.full_size
SD15 = 859_520_964


def one_step(name, folder):
    """Train one iteration of one picture, and give the runner."""
    data, cfg = lay_out(name, folder / 'data'), load(name)
    cfg.work_dir = cfg.experiment_name = str(folder / 'work')
    if 'semflow' in cfg.model:
        for part in ('network', 'autoencoder'):
            cfg.model.semflow[part].sd_folder = None
    elif 'backbone' in cfg.model:
        cfg.model.backbone.init_cfg = None
    for split in ('train', 'val'):
        loader = cfg[f'{split}_dataloader']
        loader.dataset.data_root = str(data)
        loader.update(batch_size=1, num_workers=0, persistent_workers=False)
    if 'cyclegan' in name:
        # Its four networks at once: a quarter of the pixels takes 5 GB, all 18.
        for transform in cfg.train_dataloader.dataset.pipeline:
            if 'scale' in transform:
                transform.scale = (512, 256)
    if not torch.cuda.is_available() and 'dtype' in cfg.optim_wrapper:
        # Without instructions for bfloat16 it would be emulated, far slower.
        cfg.optim_wrapper.dtype = 'float32'
    cfg.train_cfg.update(max_iters=1, val_begin=2)
    cfg.default_hooks.logger.interval = 1
    cfg.default_hooks.checkpoint.update(interval=-1, save_last=False)
    cfg.custom_hooks = cfg.custom_hooks[:1]
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert torch.isfinite(
        torch.as_tensor(runner.message_hub.get_scalar('train/loss').current()))
    return runner


def moved(optim_wrapper):
    """Count the weights that an optimizer has moved, all of them finite."""
    moments = [
        state['exp_avg'] for state in optim_wrapper.optimizer.state.values()
    ]
    assert all(moment.isfinite().all() for moment in moments)
    return sum(moment.numel() for moment in moments)


@pytest.mark.parametrize('name', RECIPES)
def test_a_recipe_makes_a_step(name, tmp_path):
    runner = one_step(f'semflow_{name}', tmp_path)
    assert moved(runner.optim_wrapper) == SD15


@pytest.mark.parametrize('name', ROWS)
def test_a_row_of_the_paper_makes_a_step(name, tmp_path):
    if 'maskformer' in name:
        pytest.importorskip('mmdet')
    elif read(name).default_scope == 'mmagic':
        pytest.importorskip('mmagic')
    runner = one_step(name, tmp_path)
    if hasattr(runner.model, 'generators'):
        # All: mmagic leaves a discriminator frozen after the generator's step.
        for part in ('generators', 'discriminators'):
            assert moved(runner.optim_wrapper[part]) == sum(
                p.numel() for p in getattr(runner.model, part).parameters())
    else:
        assert moved(runner.optim_wrapper) == sum(
            p.numel() for p in runner.model.parameters() if p.requires_grad)
