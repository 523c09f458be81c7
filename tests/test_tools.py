"""The command line tools, as a user calls them, on a small toy street."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmseg_semflow.apis import load_model
from mmseg_semflow.apis.sweep import StepSweep

ROOT = Path(__file__).parents[1]
TRAIN, TEST = (ROOT / f'tools/{name}.py' for name in ('train', 'test'))


SMALL = '''
_base_ = '{base}'
generate = dict(num_train=8, num_val=5, size=(32, 48), seed=0)
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
'''


@pytest.fixture
def config(tmp_path):
    """The config of the toy street with fewer, smaller pictures."""
    path = tmp_path / 'small.py'
    path.write_text(SMALL.format(base=ROOT / 'configs/semflow_toy.py'))
    return path


@pytest.fixture
def generator_config(tmp_path):
    """The same for the generator."""
    path = tmp_path / 'small_generator.py'
    text = SMALL.format(base=ROOT / 'configs/semflow_generator_toy.py')
    path.write_text(text.replace(
        "work_dir = 'work'", "work_dir = 'work_generator'").replace(
            'model = dict(', 'model = dict(test_cfg=dict(num_steps=2), '))
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


def figure(name, output):
    return float(re.findall(rf'\b{name}: ([\d.]+)', output)[-1])


def miou(output):
    return figure('mIoU', output)


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
    assert len(list((tmp_path / 'labels').glob('*.png'))) == 5
    assert len(list((tmp_path / 'shown').rglob('*.png'))) == 5
    python(TEST, checkpoint, '--tta')
    python(TEST, checkpoint, '--cfg-options', 'model.test_cfg.num_steps=2',
           'model.test_cfg.solver=heun')


def test_two_processes(config, tmp_path, monkeypatch):
    # Three of five images are synthesised: an odd share, and one repeated.
    text = config.read_text() + """
custom_hooks = _base_.custom_hooks
custom_hooks[-1]['num_images'] = 3
"""
    config.write_text(text)
    trained = call(ROOT / 'tools/dist_train.sh', config, 2, cwd=tmp_path)
    checkpoint = tmp_path / 'work/iter_4.pth'
    tested = call(
        ROOT / 'tools/dist_test.sh', config, checkpoint, 2, cwd=tmp_path)
    single = call(sys.executable, TEST, config, checkpoint, cwd=tmp_path)
    assert miou(trained) == miou(tested) == miou(single)
    keys = torch.load(checkpoint, weights_only=True)['state_dict']
    assert not any(key.startswith('module.') for key in keys)
    # The synthesis that two ranks shared, by one process.
    monkeypatch.chdir(tmp_path)
    sweep = StepSweep(
        load_model(config, checkpoint, 'cpu'), synthesis=dict(num_samples=3),
        num_images=3)
    row, = sweep.rows([sweep.synthesis['num_steps']], ['euler'])
    for name in ('mask_mIoU', 'mask_aAcc', 'diversity', 'brightness'):
        assert figure(name, trained) == pytest.approx(row[name], abs=1e-3), name


def test_two_processes_on_cached_latents(config, tmp_path):
    cached = tmp_path / 'cached.py'
    cached.write_text("""
_base_ = './small.py'
train_dataloader = dict(dataset=dict(
    _delete_=True, type='CachedLatentsDataset', cache='latents',
    dataset=_base_.train_dataloader.dataset))
""")
    call(sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node', 2,
         ROOT / 'tools/cache_latents.py', cached, '--num-draws', 2,
         cwd=tmp_path)
    assert {p.name for p in (tmp_path / 'latents').iterdir()} == {
        'key.json', '00000.safetensors'}
    call(ROOT / 'tools/dist_train.sh', cached, 2, cwd=tmp_path)
    checkpoint = torch.load(tmp_path / 'work/iter_4.pth', weights_only=True)
    assert len(checkpoint['meta']['dataset_meta']['classes']) == 8


def test_generator_by_the_tools(config, generator_config, tmp_path):
    pytest.importorskip('mmagic')
    trained = call(sys.executable, TRAIN, generator_config, cwd=tmp_path)
    checkpoint = tmp_path / 'work_generator/iter_4.pth'
    tested = call(sys.executable, TEST, generator_config, checkpoint, cwd=tmp_path)
    for name in ('mask_mIoU', 'diversity', 'round_trip_PSNR'):
        assert figure(name, tested) == figure(name, trained), name
    assert 'InceptionDistance is left out: there is no file' in tested
    assert len(list((tmp_path / 'work_generator').rglob('vis_image/*'))) == 10
    # The segmentor takes the same checkpoint.
    segmented = call(
        sys.executable, TEST, config, checkpoint, '--out', 'labels', cwd=tmp_path)
    assert 'mIoU' in segmented
    assert len(list((tmp_path / 'labels').glob('*.png'))) == 5


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
