"""What docs/training_at_scale.md tells users to write."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS
from test_configs import ROOT


@pytest.fixture
def parse(tmp_path):

    def parse(text):
        path = tmp_path / 'config.py'
        path.write_text(text.replace("'./", f"'{ROOT}/configs/"))
        return Config.fromfile(path)

    return parse


PAGE = (ROOT / 'docs/training_at_scale.md').read_text()
BLOCKS = [block.split('```')[0] for block in PAGE.split('```python\n')[1:]]


def test_half_the_gpus_make_the_same_training(parse):
    _, text = BLOCKS
    cfg, whole = parse(text), Config.fromfile(
        ROOT / 'configs/semflow_cityscapes.py')
    counts = cfg.optim_wrapper.accumulative_counts
    assert 4 * cfg.train_dataloader.batch_size * counts == 256
    assert cfg.train_cfg.max_iters == counts * whole.train_cfg.max_iters
    assert cfg.default_hooks.checkpoint.interval % counts == 0

    def rates(parts, steps, every):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.)
        schedulers = [
            PARAM_SCHEDULERS.build(dict(part, optimizer=optimizer))
            for part in parts
        ]
        for step in range(steps):
            if step % every == 0:
                yield optimizer.param_groups[0]['lr']
            optimizer.step()
            for scheduler in schedulers:
                scheduler.step()

    expected = list(rates(whole.param_scheduler, 8000, 1))
    found = list(rates(cfg.param_scheduler, 16000, counts))
    assert found == pytest.approx(expected, abs=3e-3)


def test_fsdp_for_another_recipe(parse):
    cfg = parse(BLOCKS[0])
    ours = Config.fromfile(ROOT / 'configs/semflow_cityscapes_fsdp.py')
    assert cfg.strategy == ours.strategy
    assert cfg.runner_type == ours.runner_type
