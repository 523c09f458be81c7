"""All but the generator works where mmagic is not installed."""

import subprocess
import sys

import pytest

SCRIPT = """
import sys
sys.modules['mmagic'] = None
import numpy as np
from mmengine.config import Config
from mmengine.runner import Runner

import mmseg_semflow.runtime
import mmseg_semflow.webapp.app
from mmseg_semflow.apis import SemFlowInferencer
from mmseg_semflow.apis.sweep import StepSweep
from mmseg_semflow.synthesis.folder import synthesize_folder

config, checkpoint, street = sys.argv[1:]
inferencer = SemFlowInferencer(config, checkpoint, 'cpu')
labels = inferencer.segment(f'{street}/img_dir/val/0.jpg')
assert inferencer.synthesize(labels, num_steps=1).shape == (1, *labels.shape, 3)
assert not synthesize_folder(
    inferencer.synthesizer(num_steps=1), inferencer.read,
    f'{street}/ann_dir/val', f'{street}/out')
row, = StepSweep(inferencer.model, num_images=1).rows([1], ['euler'])
assert row.keys() > {'mIoU', 'mask_mIoU', 'diversity'}

cfg = Config.fromfile(config)
cfg.train_cfg.update(max_iters=1, val_interval=1)
cfg.custom_hooks = [dict(
    type='SynthesisEvalHook', num_images=1,
    metrics=[dict(type='MaskConsistency'), dict(type='SampleDiversity')],
    synthesis=dict(num_steps=1, num_samples=2, segment_steps=1))]
runner = Runner.from_cfg(cfg)
runner.train()
print('scalars', *runner.message_hub.log_scalars)
assert sys.modules['mmagic'] is None
assert not any(name.startswith('mmagic.') for name in sys.modules)
"""


@pytest.mark.process
def test_both_directions_metrics_and_hook(files, street):
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', SCRIPT, *files, str(street)],
        capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    logged = done.stdout.rpartition('scalars')[2].split()
    assert {'val/mIoU', 'val/mask_mIoU', 'val/diversity'} <= set(logged)
