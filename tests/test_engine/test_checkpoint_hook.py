"""Checkpoints in bad times: a full disk, stale files, another config."""

import errno
import os
import resource
import shutil
import signal
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.fileio import get_file_backend
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS
from mmengine.runner import CheckpointLoader

from mmseg_semflow import files as writing
from mmseg_semflow.engine import AtomicLocalBackend
from mmseg_semflow.engine.settings import check_settings, training_settings
from mmseg_semflow.safe_loading import load_from_local
from runs import build_runner, quick_cfg


def schedule(end):
    return [dict(type='LinearLR', start_factor=1., end_factor=0., begin=0, end=end,
                 by_epoch=False)]


def build(root, work_dir, max_iters=4, keep=-1, **options):
    """Build a runner that writes a checkpoint every two iterations."""
    return build_runner(root, work_dir, max_iters, **{
        'train_cfg.type': 'ResumableTrainLoop',
        'default_hooks.checkpoint.interval': 2,
        'default_hooks.checkpoint.max_keep_ckpts': keep,
        **options
    })


@pytest.fixture
def run(street, tmp_path):
    return partial(build, street, tmp_path / 'work')


@pytest.fixture(scope='module')
def work_dir_of_four(shared_street, tmp_path_factory):
    """The folder of a training of four iterations: not to be changed."""
    folder = tmp_path_factory.mktemp('four') / 'work'
    build(shared_street, folder, param_scheduler=schedule(8)).train()
    return folder


@pytest.fixture
def resume(run, work_dir_of_four, tmp_path):
    """Build a runner that resumes from a copy of it."""
    shutil.copytree(work_dir_of_four, tmp_path / 'work')
    (tmp_path / 'work/last_checkpoint').write_text(
        str(tmp_path / 'work/iter_4.pth'))
    return partial(run, param_scheduler=schedule(8), resume=True)


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
    runner = run(max_iters=6, keep=1)
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
    load_from_local(str(work_dir / 'iter_2.pth'))
    monkeypatch.undo()
    run(max_iters=6, keep=1, resume=True).train()
    assert names(work_dir) == ['iter_6.pth']


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
def test_resume_takes_the_newest_complete_checkpoint(resume, tmp_path, pointer):
    work_dir = tmp_path / 'work'
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
    written = os.stat(work_dir / 'iter_4.pth').st_mtime_ns
    runner = resume()
    runner.train()
    assert last.read_text() == str(work_dir / 'iter_4.pth')
    assert runner.iter == 4
    assert os.stat(work_dir / 'iter_4.pth').st_mtime_ns == written
    assert not names(work_dir, '*.partial')


@pytest.mark.parametrize('folder', ['work', 'elsewhere/work'])
def test_a_clock_that_was_set_back(resume, tmp_path, folder):
    """What was written last looks older than before, in a copy of the folder too."""
    named = tmp_path / folder / 'iter_4.pth'
    (tmp_path / 'work/last_checkpoint').write_text(str(named))
    os.utime(tmp_path / 'work/iter_4.pth', (0, 0))
    resume().train()
    assert os.stat(tmp_path / 'work/iter_4.pth').st_mtime == 0  # not trained again


def test_nothing_to_resume_from(run, tmp_path):
    run(max_iters=2, resume=True).train()
    assert names(tmp_path / 'work') == ['iter_2.pth']


def test_interval_within_an_accumulation(run):
    with pytest.raises(ValueError, match='accumulative_counts=3, .* got 2'):
        run(**{'optim_wrapper.accumulative_counts': 3}).train()


CHANGES = {
    'model.semflow.codec.amplitude: none in the checkpoint, 5 now': {
        'model.semflow.codec.amplitude': 5
    },
    'model.semflow.process.start_fraction: none in the checkpoint, 0.5 now': {
        'model.semflow.process': dict(type='RectifiedFlow', start_fraction=0.5)
    },
    'model.semflow.losses.0.ignore_void: none in the checkpoint, True now': {
        'model.semflow.losses': [dict(type='MatchingLoss', ignore_void=True)]
    },
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
    'model.semflow.network.gradient_checkpointing': True,
}


@pytest.fixture
def settings(street, tmp_path):
    """List what is compared of a config, without building its model."""

    def settings(**options):
        cfg = quick_cfg(street, tmp_path / 'work', **options)
        loader = cfg.train_dataloader
        return training_settings(
            SimpleNamespace(
                cfg=cfg,
                train_dataloader=SimpleNamespace(
                    dataset=DATASETS.build(loader.dataset),
                    batch_size=loader.batch_size)))

    return settings


@pytest.mark.parametrize('text', CHANGES)
def test_settings_that_must_stay(settings, text):
    with pytest.raises(ValueError) as caught:
        check_settings(settings(), settings(**CHANGES[text]), None)
    assert text in str(caught.value) and 'set load_from' in str(caught.value)


def test_settings_that_need_not_stay(settings):
    logger = MMLogger.get_instance('settings')
    check_settings(settings(), settings(**ALLOWED), logger)


def test_images_were_added(settings, street):
    saved = settings()
    for kind, suffix in dict(img_dir='jpg', ann_dir='png').items():
        folder = street / kind / 'train'
        (folder / f'9.{suffix}').write_bytes(
            (folder / f'0.{suffix}').read_bytes())
    with pytest.raises(ValueError, match='number of images: 6 .*, 7 now'):
        check_settings(saved, settings(), None)


def test_world_size_may_change_with_the_same_total_batch(settings):
    saved = settings()
    logger = MMLogger.get_instance('world')
    warnings = []
    logger.warning = warnings.append
    check_settings(saved, saved | dict(world_size='2'), logger)
    assert warnings == [
        'resuming with another setting, world_size: 1 in the checkpoint, 2 now'
    ]


def test_resume_from_another_config(resume, tmp_path):
    for options in ({}, dict(load_from=str(tmp_path / 'work/iter_2.pth'))):
        with pytest.raises(ValueError, match='of another training and cannot'):
            resume(max_iters=6, **options, **{
                'optim_wrapper.optimizer.lr': 0.01
            }).train()


def test_weights_may_start_another_training(run, work_dir_of_four):
    run(max_iters=2, load_from=str(work_dir_of_four / 'iter_2.pth'),
        **{'optim_wrapper.optimizer.lr': 0.01}).train()


def test_a_longer_training_follows_the_new_schedule(resume):
    resumed = resume(max_iters=8, param_scheduler=schedule(12))
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


def change(path, function):
    """Change a checkpoint."""
    checkpoint = load_from_local(str(path))
    function(checkpoint['meta'])
    torch.save(checkpoint, path)


def test_checkpoint_without_settings(resume, tmp_path):

    def drop(meta):
        assert all(isinstance(v, str) for v in meta.pop('settings').values())

    change(tmp_path / 'work/iter_4.pth', drop)
    runner = resume(max_iters=5)
    runner.train()
    assert runner.iter == 5


def test_a_saved_config_is_not_run(resume, tmp_path):
    code = f"open({str(tmp_path / 'run')!r}, 'w').close()"
    change(tmp_path / 'work/iter_4.pth', lambda meta: meta.update(config=code))
    resume(max_iters=5).train()
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('kind', ['?', 'b', 'u1', 'i2', 'i4', 'f2', 'f4', 'f8'])
def test_what_numpy_metrics_return_is_loaded(tmp_path, kind):
    score = np.ones(1, kind)[0]
    torch.save(dict(best_score=score, all=np.ones(2, kind)), tmp_path / 'a.pth')
    found = CheckpointLoader.load_checkpoint(str(tmp_path / 'a.pth'), 'cpu')
    assert found['best_score'] == score and found['best_score'].dtype == kind
