"""Checkpoints in bad times: a full disk, stale files, another config."""

import errno
import os
import resource
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.fileio import get_file_backend
from mmengine.logging import MMLogger
from mmengine.runner import CheckpointLoader, Runner

from mmseg_semflow import files as writing
from mmseg_semflow.engine import AtomicLocalBackend
from mmseg_semflow.engine.settings import check_settings, training_settings
from tiny import CODEC, runner_cfg, segmentor_cfg


@pytest.fixture
def run(street, tmp_path):
    """Build a runner that writes a checkpoint every two iterations."""

    def build(max_iters=4, keep=-1, **options):
        rest = {k: v for k, v in options.items() if '.' not in k}
        cfg = runner_cfg(street, tmp_path / 'work', max_iters, **rest)
        cfg.merge_from_dict({
            'train_cfg.type': 'ResumableTrainLoop',
            'default_hooks.checkpoint.interval': 2,
            'default_hooks.checkpoint.max_keep_ckpts': keep,
            **{k: v for k, v in options.items() if '.' in k}
        })
        cfg.experiment_name = f'{time.monotonic_ns()}'
        return Runner.from_cfg(cfg)

    return build


def names(folder, pattern='*.pth*'):
    return sorted(path.name for path in Path(folder).glob(pattern))


class FullDisk:
    """Opens files in which there is room for half of what is written."""

    def __init__(self, *args):
        self.file = open(*args)

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.file.close()

    def write(self, data):
        self.file.write(data[:len(data) // 2])
        self.file.flush()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_disk_full_while_a_checkpoint_is_written(run, tmp_path, monkeypatch):
    work_dir = tmp_path / 'work'
    runner = run(max_iters=8, keep=1)
    put = AtomicLocalBackend.put

    def full_at_iteration_4(self, obj, filepath):
        if runner.iter == 3:
            monkeypatch.setattr(writing, 'open', FullDisk, raising=False)
        put(self, obj, filepath)

    monkeypatch.setattr(AtomicLocalBackend, 'put', full_at_iteration_4)
    with pytest.raises(OSError) as caught:
        runner.train()
    assert caught.value.errno == errno.ENOSPC
    size = (work_dir / 'iter_2.pth').stat().st_size
    for part in ('iter_4.pth cannot be written (No space left on device)',
                 'bytes are free', 'files written before are whole'):
        assert part in str(caught.value)
    needed = int(str(caught.value).split('needs ')[1].split()[0].replace(',', ''))
    assert abs(needed - size) < 0.1 * size
    assert names(work_dir) == ['iter_2.pth']
    torch.load(work_dir / 'iter_2.pth', weights_only=True)
    monkeypatch.undo()
    run(max_iters=8, keep=1, resume=True).train()
    assert names(work_dir) == ['iter_8.pth']


def test_a_real_limit_of_the_system(tmp_path):
    """The system refuses a file that is too large."""
    path = tmp_path / 'iter_2.pth'
    backend = get_file_backend(str(path))
    backend.put(b'old', path)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match='iter_2.pth cannot .* 20,000 bytes'):
            backend.put(bytes(20_000), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == b'old'
    assert names(tmp_path, '*') == ['iter_2.pth']


def test_a_checkpoint_is_removed_after_the_next_is_complete(run, monkeypatch,
                                                            tmp_path):
    work_dir, seen = tmp_path / 'work', []
    put = AtomicLocalBackend.put

    def spy(self, obj, filepath):
        seen.append((Path(filepath).name, names(work_dir)))
        put(self, obj, filepath)

    monkeypatch.setattr(AtomicLocalBackend, 'put', spy)
    # The best changes with every validation.
    monkeypatch.setattr(
        'mmengine.hooks.CheckpointHook.rule_map',
        dict(greater=lambda x, y: True))
    run(keep=1, **{
        'train_cfg.val_interval': 2,
        'default_hooks.checkpoint.save_best': 'mIoU'
    }).train()
    first = ['best_mIoU_iter_2.pth', 'iter_2.pth']
    assert ('iter_4.pth', first) in seen
    assert ('best_mIoU_iter_4.pth', [first[0], 'iter_4.pth']) in seen
    assert names(work_dir) == ['best_mIoU_iter_4.pth', 'iter_4.pth']


@pytest.mark.parametrize('pointer', ['iter_2.pth', '', None, 'iter_6.pth'])
def test_resume_takes_the_newest_complete_checkpoint(run, tmp_path, pointer):
    work_dir = tmp_path / 'work'
    run().train()
    last = work_dir / 'last_checkpoint'
    if pointer is None:
        last.unlink()
    else:
        last.write_text(str(work_dir / pointer) if pointer else '')
    # Half a file, as other programs write it, and what a killed one left.
    data = (work_dir / 'iter_4.pth').read_bytes()
    (work_dir / 'iter_6.pth').write_bytes(data[:len(data) // 2])
    (work_dir / 'iter_8.pth.partial').write_bytes(data[:len(data) // 2])
    (work_dir / 'best_mIoU_iter_2.pth').write_bytes(data)
    runner = run(resume=True)
    runner.train()
    assert last.read_text() == str(work_dir / 'iter_4.pth')
    assert runner.iter == 4
    assert not names(work_dir, '*.partial')


def test_nothing_to_resume_from(run, tmp_path):
    runner = run(resume=True)
    runner.train()
    assert names(tmp_path / 'work') == ['iter_2.pth', 'iter_4.pth']


def test_interval_within_an_accumulation(run):
    with pytest.raises(ValueError, match='accumulative_counts=3, .* got 2'):
        run(**{'optim_wrapper.accumulative_counts': 3}).train()


CHANGES = {
    'model.semflow.codec.spacing': dict(
        model=segmentor_cfg(codec=dict(CODEC, spacing=150))),
    'optim_wrapper.optimizer.lr: 0.001 in the checkpoint, 0.01 now': {
        'optim_wrapper.optimizer.lr': 0.01
    },
    'optim_wrapper.accumulative_counts: none in the checkpoint, 2 now': {
        'optim_wrapper.accumulative_counts': 2
    },
    'images in an iteration: 2 in the checkpoint, 3 now': {
        'train_dataloader.batch_size': 3
    },
    r'dataset.pipeline.2.prob: 0.5 in the checkpoint, 0.9 now': {
        'train_dataloader.dataset.pipeline.2.prob': 0.9
    },
    'EMAHook.0.type: none in the checkpoint': dict(
        custom_hooks=[dict(type='EMAHook')]),
    'number of schedulers in param_scheduler: 0 in the checkpoint, 1 now': dict(
        param_scheduler=[dict(type='LinearLR', end=4, by_epoch=False)]),
}
ALLOWED = {
    'train_cfg.max_iters': 6,
    'train_cfg.val_interval': 3,
    'train_dataloader.num_workers': 1,
    'model.test_cfg.num_steps': 1,
    'model.semflow.channels_last': True,
    'model.semflow.compile_network': True,
    'model.semflow.velocity_net.gradient_checkpointing': True,
}


def test_settings_that_must_and_need_not_stay(run):
    """Without training: what is compared of a config, and how."""
    saved = training_settings(run())
    logger = MMLogger.get_instance('settings')
    for text, change in CHANGES.items():
        with pytest.raises(ValueError) as caught:
            check_settings(saved, training_settings(run(**change)), logger)
        assert text in str(caught.value) and 'set load_from' in str(caught.value)
    check_settings(saved, training_settings(run(**ALLOWED)), logger)


def test_images_were_added(run, street):
    saved = training_settings(run())
    for kind, suffix in dict(img_dir='jpg', ann_dir='png').items():
        folder = street / kind / 'train'
        (folder / f'9.{suffix}').write_bytes(
            (folder / f'0.{suffix}').read_bytes())
    with pytest.raises(ValueError, match='number of images: 6 .*, 7 now'):
        check_settings(saved, training_settings(run()), None)


def test_world_size_may_change_with_the_same_total_batch(run, caplog):
    saved = training_settings(run())
    logger = MMLogger.get_instance('world')
    warnings = []
    logger.warning = warnings.append
    check_settings(saved, saved | dict(world_size='2'), logger)
    assert warnings == [
        'resuming with another setting, world_size: 1 in the checkpoint, 2 now'
    ]


def test_resume_from_another_config(run, tmp_path):
    run().train()
    for options in ({}, dict(load_from=str(tmp_path / 'work/iter_2.pth'))):
        with pytest.raises(ValueError, match='of another training and cannot'):
            run(max_iters=6, resume=True, **options,
                **{'optim_wrapper.optimizer.lr': 0.01}).train()
    # Its weights may start another training.
    run(load_from=str(tmp_path / 'work/iter_2.pth'),
        **{'optim_wrapper.optimizer.lr': 0.01}).train()


def test_a_longer_training_follows_the_new_schedule(run):

    def schedule(end):
        return [dict(type='LinearLR', start_factor=1., end_factor=0., begin=0,
                     end=end, by_epoch=False)]

    run(param_scheduler=schedule(8)).train()
    resumed = run(max_iters=8, param_scheduler=schedule(12), resume=True)
    rates, step = [], resumed.train_loop.run_iter

    def run_iter(batch):
        rates.append(resumed.optim_wrapper.get_lr()['lr'][0])
        step(batch)

    resumed.train_loop.run_iter = run_iter
    resumed.train()
    # From where the shorter one was, in a line to 0 at the longer one's end.
    rate = 1e-3 * (7 - 4) / 7
    assert rates == pytest.approx(
        [rate * (11 - i) / (11 - 4) for i in range(4, 8)])


def test_checkpoint_without_settings(run, tmp_path):
    run().train()
    path = tmp_path / 'work/iter_4.pth'
    checkpoint = torch.load(path, weights_only=True)
    assert all(
        isinstance(value, str)
        for value in checkpoint['meta'].pop('settings').values())
    torch.save(checkpoint, path)
    runner = run(max_iters=6, resume=True)
    runner.train()
    assert runner.iter == 6


def test_a_saved_config_is_not_run(run, tmp_path):
    run().train()
    path = tmp_path / 'work/iter_4.pth'
    checkpoint = torch.load(path, weights_only=True)
    checkpoint['meta']['config'] = f"open({str(tmp_path / 'run')!r}, 'w').close()"
    torch.save(checkpoint, path)
    run(max_iters=6, resume=True).train()
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('kind', ['?', 'b', 'u1', 'i2', 'i4', 'f2', 'f4', 'f8'])
def test_what_numpy_metrics_return_is_loaded(tmp_path, kind):
    score = np.ones(1, kind)[0]
    torch.save(dict(best_score=score, all=np.ones(2, kind)), tmp_path / 'a.pth')
    found = CheckpointLoader.load_checkpoint(str(tmp_path / 'a.pth'), 'cpu')
    assert found['best_score'] == score and found['best_score'].dtype == kind
