"""One step of each recipe at full size, with random weights.

Takes minutes and 16 GB of memory, so it runs only when asked for:
`pytest -m full_size`.
"""

import pytest
import torch
from mmengine.runner import Runner
from shipped import load
from test_recipes import RECIPES

from layouts import LAYOUTS

pytestmark = pytest.mark.full_size


@pytest.mark.parametrize('name', RECIPES)
def test_a_recipe_makes_a_step(name, tmp_path):
    LAYOUTS[name](tmp_path / 'data')
    cfg = load(f'semflow_{name}')
    cfg.work_dir = cfg.experiment_name = str(tmp_path / 'work')
    for part in ('network', 'autoencoder'):
        cfg.model.semflow[part].sd_folder = None
    for split in ('train', 'val'):
        loader = cfg[f'{split}_dataloader']
        loader.dataset.data_root = str(tmp_path / 'data')
        loader.update(batch_size=1, num_workers=0, persistent_workers=False)
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
    states = runner.optim_wrapper.optimizer.state.values()
    assert sum(state['exp_avg'].numel() for state in states) == 859_520_964
    assert all(state['exp_avg'].isfinite().all() for state in states)
