"""What docs/training_at_scale.md tells users to write."""

import pytest
from mmengine.config import Config
from shipped import ROOT, factor, read

PAGE = (ROOT / 'docs/training_at_scale.md').read_text()
BLOCKS = [block.split('```')[0] for block in PAGE.split('```python\n')[1:]]


def parse(text):
    return Config.fromstring(text.replace("'./", f"'{ROOT}/configs/"), '.py')


def test_half_the_gpus_make_the_same_training():
    _, text = BLOCKS
    cfg, whole = parse(text), read('semflow_cityscapes')
    counts = cfg.optim_wrapper.accumulative_counts
    assert 4 * cfg.train_dataloader.batch_size * counts == 256
    assert cfg.train_cfg.max_iters == counts * whole.train_cfg.max_iters
    assert cfg.default_hooks.checkpoint.interval % counts == 0
    for step in range(8000):
        assert factor(cfg.param_scheduler, counts * step) == pytest.approx(
            factor(whole.param_scheduler, step), abs=3e-3)


def test_fsdp_for_another_recipe():
    cfg = parse(BLOCKS[0])
    ours = read('semflow_cityscapes_fsdp')
    assert cfg.strategy == ours.strategy
    assert cfg.runner_type == ours.runner_type
    # Of its hooks, all but the one that draws with the whole network.
    hooks = read('semflow_coco_stuff164k').custom_hooks
    assert cfg.custom_hooks == [
        hook for hook in hooks if hook.type != 'SynthesisEvalHook']
    assert len(cfg.custom_hooks) == len(hooks) - 1
