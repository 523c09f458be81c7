"""The command line tools, as a user calls them, on a small toy street."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
TRAIN, TEST = (ROOT / f'tools/{name}.py' for name in ('train', 'test'))


@pytest.fixture
def config(tmp_path):
    """The config of the toy street with fewer, smaller pictures."""
    path = tmp_path / 'small.py'
    path.write_text(f'''
_base_ = '{ROOT}/configs/semflow_toy.py'
generate = dict(num_train=8, num_val=4, size=(32, 48), seed=0)
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False,
    dataset=dict(data_root='street', generate=generate))
val_dataloader = dict(
    batch_size=1, num_workers=0, persistent_workers=False,
    dataset=dict(data_root='street', generate=generate))
test_dataloader = val_dataloader
model = dict(semflow=dict(velocity_net=dict(unet=dict(
    block_out_channels=(32, 32, 32)))))
train_cfg = dict(max_iters=4, val_interval=4)
default_hooks = dict(
    checkpoint=dict(interval=2), visualization=dict(interval=1))
work_dir = 'work'
''')
    return path


def call(*command, cwd, **env):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    env = dict(
        os.environ,
        PATH=f'{Path(sys.executable).parent}:{os.environ["PATH"]}',
        PORT=str(port)) | env
    done = subprocess.run([str(part) for part in command],
                          cwd=cwd, env=env, text=True, timeout=300,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def miou(output):
    return float(re.findall(r'mIoU: ([\d.]+)', output)[-1])


def test_options_of_mmseg(config, tmp_path):
    def python(tool, *args):
        return call(sys.executable, tool, config, *args, cwd=tmp_path)

    python(TRAIN, '--amp', '--cfg-options', 'train_cfg.max_iters=2',
           'train_cfg.val_interval=2')
    trained = python(TRAIN, '--resume')
    assert 'resumed' in trained and 'Iter(train) [4/4]' in trained.replace(
        '[   4', '[4')
    checkpoint = tmp_path / 'work/iter_4.pth'
    tested = python(TEST, checkpoint, '--out', 'labels', '--show-dir', 'shown')
    assert miou(tested) == miou(trained)
    assert len(list((tmp_path / 'labels').glob('*.png'))) == 4
    assert len(list((tmp_path / 'shown').rglob('*.png'))) == 4
    python(TEST, checkpoint, '--tta')
    python(TEST, checkpoint, '--cfg-options', 'model.test_cfg.num_steps=2',
           'model.test_cfg.solver=heun')


def test_two_processes(config, tmp_path):
    trained = call(ROOT / 'tools/dist_train.sh', config, 2, cwd=tmp_path)
    checkpoint = tmp_path / 'work/iter_4.pth'
    tested = call(
        ROOT / 'tools/dist_test.sh', config, checkpoint, 2, cwd=tmp_path)
    single = call(sys.executable, TEST, config, checkpoint, cwd=tmp_path)
    assert miou(trained) == miou(tested) == miou(single)
    keys = torch.load(checkpoint, weights_only=True)['state_dict']
    assert not any(key.startswith('module.') for key in keys)


@pytest.mark.parametrize('tool, files', [('train', ['c.py']),
                                         ('test', ['c.py', 'w.pth'])])
def test_slurm_twins(tmp_path, tool, files):
    """What they ask of srun, which here only prints its arguments."""
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\necho "$@"\n')
    srun.chmod(0o755)
    printed = call(
        ROOT / f'tools/slurm_{tool}.sh',
        'gpus',
        'job',
        *files,
        '--work-dir',
        'w',
        cwd=tmp_path,
        PATH=f'{tmp_path}:{os.environ["PATH"]}',
        GPUS='8',
        GPUS_PER_NODE='8')
    assert printed.startswith('-p gpus --job-name=job --gres=gpu:8 --ntasks=8')
    assert printed.strip().endswith(
        f'tools/{tool}.py {" ".join(files)} --launcher=slurm --work-dir w')
