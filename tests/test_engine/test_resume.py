"""Trainings that are killed and resumed end like those that are not.

``KILL_ROUNDS=20 pytest -m process tests/test_engine/test_resume.py`` repeats what
depends on chance.
"""

import copy
import os
import random
import re
import signal
import socket
import sys
import time
import zipfile
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from mmengine.runner import Runner

from mmseg_semflow import files as writing
from mmseg_semflow.engine import train_loop
from mmseg_semflow.safe_loading import load_from_local
from runs import quick_cfg
from tiny import transforms_pipeline

ROUNDS = int(os.environ.get('KILL_ROUNDS', 1))
MAX_ITERS = 12
SCHEDULE = [
    dict(type='LinearLR', start_factor=0.1, begin=0, end=4, by_epoch=False),
    dict(type='LinearLR', start_factor=1., end_factor=0., begin=4, end=MAX_ITERS,
         by_epoch=False)
]
EMA = dict(
    type='EMAHook', ema_type='MomentumAnnealingEMA', momentum=0.01, gamma=3,
    priority='ABOVE_NORMAL')


# All that has a state.
OPTIONS = {
    'param_scheduler': SCHEDULE,
    'custom_hooks': [dict(type='StopOnInvalidLossHook'), EMA],
    'randomness': dict(seed=3, diff_rank_seed=True),
    'model_wrapper_cfg': dict(
        type='MMDistributedDataParallel', device_ids=None,
        broadcast_buffers=False),
    'train_cfg.type': 'ResumableTrainLoop',
    'train_cfg.val_interval': 6,
    'default_hooks.checkpoint.interval': 3,
    'default_hooks.checkpoint.max_keep_ckpts': 1,
    'optim_wrapper.optimizer.fused': True,
    'optim_wrapper.clip_grad': dict(max_norm=1.)
}


def resumable_cfg(root, work_dir, max_iters=MAX_ITERS, **options):
    # Copied, since runners take their configs apart.
    return quick_cfg(root, work_dir, max_iters, **copy.deepcopy(OPTIONS | options))


class SlowFile:
    """Writes the first half, so that one can see it, and then the second."""

    def __init__(self, *args):
        self.file = open(*args)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.file.close()

    def write(self, data):
        self.file.write(data[:len(data) // 2])
        self.file.flush()
        time.sleep(0.5)
        self.file.write(data[len(data) // 2:])


def train_rank(root, work_dir, options, slow, rank, world_size, port):
    """Train as one rank, in a process of its own."""
    if slow:
        writing.open = SlowFile
    if world_size > 1:
        os.environ |= dict(
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size),
            MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
        torch.distributed.init_process_group('gloo')
        options = dict(options, launcher='pytorch')
    cfg = resumable_cfg(root, work_dir, resume=True, **options)
    Runner.from_cfg(cfg).train()


class Training:
    """A training in forked processes, which share the loaded libraries."""

    def __init__(self, root, work_dir, world_size, options, slow=False):
        context = get_context('fork')
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            port = free.getsockname()[1]
        self.work_dir = work_dir
        self.processes = [
            context.Process(
                target=train_rank,
                args=(root, work_dir, options, slow, rank, world_size, port))
            for rank in range(world_size)
        ]
        for process in self.processes:
            process.start()

    def running(self):
        return all(process.is_alive() for process in self.processes)

    def finish(self):
        for process in self.processes:
            process.join(120)
            assert process.exitcode == 0
        return load_from_local(str(self.work_dir / f'iter_{MAX_ITERS}.pth'))

    def kill(self):
        for process in self.processes:
            process.kill()
            process.join()

    def kill_after(self, seconds):
        deadline = time.monotonic() + seconds
        while self.running() and time.monotonic() < deadline:
            time.sleep(0.01)
        self.kill()

    def wait_for_write(self, after):
        """Wait for the write of a checkpoint later than iteration ``after``."""
        while self.running():
            for path in self.work_dir.glob('iter_*.partial'):
                if int(re.findall(r'\d+', path.name)[0]) > after:
                    return path
            time.sleep(0.01)
        raise AssertionError('the training ended before it could be killed')

    def kill_while_writing(self, after):
        """Kill in such a write."""
        path = self.wait_for_write(after)
        self.kill()
        return path

    def workers(self):
        """List the processes that load data for the first rank."""
        pid = self.processes[0].pid
        children = Path(f'/proc/{pid}/task/{pid}/children').read_text()
        return [int(child) for child in children.split()]


def assert_same(a, b, name):
    """Compare bit for bit, however nested."""
    assert type(a) is type(b), name
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), name
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), name
        for key in a:
            assert_same(a[key], b[key], f'{name}.{key}')
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), name
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f'{name}.{i}')
    else:
        assert a == b, name


STATES = ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers')
WORKERS = 'workers_that_draw_pseudo_masks'
CASES = {
    'alone': (1, {}),
    WORKERS: (1, {
        'train_dataloader.dataset.pipeline': transforms_pipeline(),
        'train_dataloader.num_workers': 2,
        'train_dataloader.persistent_workers': True,
        'optim_wrapper.accumulative_counts': 3
    }),
    'two_ranks': (2, {
        'train_dataloader.num_workers': 1
    }),
}


@pytest.fixture(scope='module')
def uninterrupted():
    """What trainings ended with, and how long they took, by case."""
    return {}


@pytest.mark.process
@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('number', range(ROUNDS))
def test_killed_and_resumed_is_bit_identical(shared_street, tmp_path,
                                             uninterrupted, case, number):
    world_size, options = CASES[case]

    def start(name, slow=False):
        return Training(
            shared_street, tmp_path / name, world_size, options, slow)

    if case not in uninterrupted:
        begin = time.monotonic()
        final = start('uninterrupted').finish()
        uninterrupted[case] = final, time.monotonic() - begin
    final, seconds = uninterrupted[case]
    start('killed').kill_after(random.uniform(0, seconds))
    work_dir = tmp_path / 'killed'
    done = [int(p.stem[5:]) for p in work_dir.glob('iter_*.pth')]
    if MAX_ITERS not in done:
        if max(done, default=0) < MAX_ITERS - 3:
            partial = start('killed', slow=True).kill_while_writing(
                max(3, *done, 0))
            assert not zipfile.is_zipfile(partial)
        before = sorted(work_dir.glob('iter_*.pth'))
        for path in before:
            load_from_local(str(path))
        start('killed').finish()
    resumed = load_from_local(str(work_dir / f'iter_{MAX_ITERS}.pth'))
    for name in STATES:
        assert_same(resumed[name], final[name], name)
    assert not list(work_dir.glob('*.partial'))


@pytest.mark.process
@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='reads /proc')
def test_a_worker_that_is_killed_ends_the_training(shared_street, tmp_path,
                                                   uninterrupted, capfd):
    """In words, while a checkpoint is written, which is whole or not there."""
    options = CASES[WORKERS][1]
    training = Training(shared_street, tmp_path / 'killed', 1, options, slow=True)
    written = training.wait_for_write(3)
    worker = training.workers()[0]
    os.kill(worker, signal.SIGKILL)
    training.processes[0].join(60)
    assert training.processes[0].exitcode == 1
    assert f'DataLoader worker (pid {worker}) is killed' in capfd.readouterr().err
    assert not written.exists()
    done = list((tmp_path / 'killed').glob('iter_*.pth'))
    assert done
    for path in done:
        load_from_local(str(path))
    resumed = Training(shared_street, tmp_path / 'killed', 1, options).finish()
    if WORKERS not in uninterrupted:
        uninterrupted[WORKERS] = Training(
            shared_street, tmp_path / 'whole', 1, options).finish(), None
    for name in STATES:
        assert_same(resumed[name], uninterrupted[WORKERS][0][name], name)


def record(runner, rank=0):
    """Train, and list what the iterations are given and draw."""
    semflow, drawn = runner.model.semflow, []
    sample, perturbed = semflow.process.sample, semflow.perturbed_masks

    def sample_point(z0, z1):
        point = sample(z0, z1)
        drawn.append((runner.iter, z0, z1, point.t))
        # Nothing that is drawn besides may matter.
        torch.rand(runner.iter + 1)
        return point

    def perturbed_masks(label_maps):
        drawn.append((runner.iter, label_maps, perturbed(label_maps)))
        return drawn[-1][-1]

    semflow.process.sample, semflow.perturbed_masks = sample_point, perturbed_masks
    runner.train()
    return drawn


def test_draws_are_those_of_seed_and_iteration(shared_street, tmp_path,
                                               monkeypatch):
    """Flips, colours, latents and times of a training that was resumed."""

    def build(name, **options):
        return Runner.from_cfg(resumable_cfg(
            shared_street, tmp_path / name, 5,
            **{'default_hooks.checkpoint.max_keep_ckpts': -1}, **options))

    whole = record(build('whole'))
    assert [step for step, *_ in whole] == sorted([*range(5), *range(5)])
    masks = [draw[-1] for draw in whole if len(draw) == 3]
    assert len({mask.sum().item() for mask in masks}) == 5
    resumed = build('resumed', resume=True,
                    load_from=str(tmp_path / 'whole/iter_3.pth'))
    assert_same(record(resumed), whole[6:], 'resumed')
    monkeypatch.setattr(train_loop, 'get_rank', lambda: 1)
    # The samples of rank 0, with the draws of rank 1.
    other = build('rank', **{'randomness.diff_rank_seed': False})
    _, labels, mask = record(other)[0]
    assert torch.equal(labels, whole[0][1])
    assert not torch.equal(mask, masks[0])
