"""The command line tools, as a user calls them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tiny import runner_cfg

ROOT = Path(__file__).parents[1]


@pytest.fixture
def config(street, tmp_path):
    cfg = runner_cfg(
        street,
        tmp_path / 'work',
        custom_imports=dict(imports=['mmseg_semflow']),
        launcher='none')
    cfg.model_wrapper_cfg = dict(
        type='MMDistributedDataParallel', device_ids=None)
    cfg.randomness = dict(seed=0, diff_rank_seed=True)
    cfg.log_level = 'INFO'
    cfg.dump(tmp_path / 'config.py')
    return str(tmp_path / 'config.py')


def call(*command, cwd):
    env = dict(
        os.environ,
        PYTHON=sys.executable,
        PATH=f'{Path(sys.executable).parent}:{os.environ["PATH"]}',
        PORT='29517')
    done = subprocess.run([str(part) for part in command],
                          cwd=cwd, env=env, text=True, timeout=300,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def miou(output):
    return float(re.findall(r'mIoU: ([\d.]+)', output)[-1])


def test_train_and_test(config, tmp_path):
    trained = call(sys.executable, ROOT / 'tools/train.py', config,
                   cwd=tmp_path)
    checkpoint = tmp_path / 'work/iter_4.pth'
    tested = call(
        sys.executable,
        ROOT / 'tools/test.py',
        config,
        checkpoint,
        '--out',
        tmp_path / 'labels',
        cwd=tmp_path)
    assert miou(tested) == miou(trained)
    assert len(list((tmp_path / 'labels').glob('*.png'))) == 4
    fewer = call(
        sys.executable,
        ROOT / 'tools/test.py',
        config,
        checkpoint,
        '--cfg-options',
        'model.test_cfg.num_steps=1',
        'model.test_cfg.solver=heun',
        cwd=tmp_path)
    assert 'mIoU' in fewer


def test_two_processes(config, tmp_path):
    trained = call(ROOT / 'tools/dist_train.sh', config, 2, cwd=tmp_path)
    checkpoint = tmp_path / 'work/iter_4.pth'
    tested = call(
        ROOT / 'tools/dist_test.sh', config, checkpoint, 2, cwd=tmp_path)
    single = call(
        sys.executable, ROOT / 'tools/test.py', config, checkpoint,
        cwd=tmp_path)
    assert miou(trained) == miou(tested) == miou(single)
    keys = torch.load(checkpoint, weights_only=True)['state_dict']
    assert not any(key.startswith('module.') for key in keys)
