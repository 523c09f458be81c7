"""Checkpoints that survive being killed, and resuming from them."""

import copy
import re
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import Dict, Iterator, List, Optional

from mmengine.dist import barrier, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmseg_semflow.files import PARTIAL, write_bytes

from .settings import check_settings, training_settings

# The place in a schedule; all else of its state is the config's.
_PLACE = ('base_values', 'last_step', '_global_step', '_last_value')


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook`` for trainings that may be killed.

    - A checkpoint is removed when the one that follows it is complete, not
      before.
    - ``--resume`` takes the newest complete checkpoint: the one that the file
      ``last_checkpoint`` names, or one after it.
    - A training resumes with the settings it was started with, or not at all
      (:func:`check_settings`). ``max_iters`` and the schedule may change, and
      the new schedule is the one that counts.

    Arguments are those of mmengine's ``CheckpointHook``.
    """

    def before_run(self, runner: Runner) -> None:
        """Choose what ``--resume`` without a checkpoint takes."""
        if runner._resume and runner._load_from is None:
            if is_main_process():
                self._find_newest(runner)
            barrier()

    def _find_newest(self, runner: Runner) -> None:
        folder = Path(runner.work_dir)
        if self.out_dir is not None:
            folder = Path(self.out_dir, folder.name)
        pointer = Path(runner.work_dir, 'last_checkpoint')
        named = pointer.read_text().strip() if pointer.is_file() else ''
        # A folder is a checkpoint of DeepSpeed, which writes it itself. It is
        # complete where it is named, and where its name was being written.
        if named and Path(named).is_dir():
            return
        before, after = map(re.escape, self.filename_tmpl.split('{}'))
        complete = sorted(
            (path.stat().st_mtime_ns, int(name[1]), path)
            for path in folder.glob('*')
            if (name := re.fullmatch(f'{before}([0-9]+){after}', path.name))
            and (zipfile.is_zipfile(path)
                 or path.is_dir() and pointer.is_file()))
        # Of a clock that was set back, or in a copy without its times, one before the
        # named one may look newer.
        known = [entry for entry in complete if entry[2].name == Path(named).name]
        complete = [path for time, number, path in complete if not known
                    or number >= known[0][1] and time >= known[0][0]]
        if complete and Path(named) != complete[-1]:
            runner.logger.warning(
                f'{pointer} says {named!r}, but {complete[-1]} is the newest '
                'complete checkpoint')
            write_bytes(pointer, str(complete[-1]).encode())

    def before_train(self, runner: Runner) -> None:
        """Remove what a killed training left half written.

        Args:
            runner (Runner): The runner.

        Raises:
            ValueError: If a checkpoint would fall between the iterations of
                one optimizer step.
        """
        counts = runner.cfg.get('optim_wrapper', {}).get(
            'accumulative_counts', 1)
        if not self.by_epoch and self.interval > 0 and self.interval % counts:
            raise ValueError(
                'interval of the SafeCheckpointHook must be a multiple of '
                f'optim_wrapper.accumulative_counts={counts}, whose gradients '
                f'no checkpoint holds, but got {self.interval}')
        super().before_train(runner)
        if is_main_process():
            for path in Path(self.out_dir).glob(f'*.pth{PARTIAL}'):
                path.unlink()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Note the settings of the training."""
        checkpoint['meta']['settings'] = training_settings(runner)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Drop what would be run as code; compare settings if it is resumed.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): The checkpoint.

        Raises:
            ValueError: If the training would not be the same.
        """
        # mmengine would execute the text, which older versions of it wrote.
        checkpoint.get('meta', {}).pop('config', None)
        if not runner._resume:
            return
        check_settings(
            checkpoint['meta'].get('settings'), training_settings(runner),
            runner.logger)
        saved = checkpoint.get('param_schedulers', [])
        lists = saved.values() if isinstance(saved, dict) else [saved]
        for states in lists:
            states[:] = [{
                key: state[key]
                for key in _PLACE if key in state
            } for state in states]

    def _save_checkpoint_with_step(self, runner: Runner, step: int,
                                   meta: dict) -> None:
        with self._removing_afterwards():
            super()._save_checkpoint_with_step(runner, step, meta)

    def _save_best_checkpoint(self, runner: Runner,
                              metrics: Dict[str, Optional[float]]) -> None:
        with self._removing_afterwards():
            super()._save_best_checkpoint(runner, metrics)

    @contextmanager
    def _removing_afterwards(self) -> Iterator[None]:
        """Put off what mmengine removes before it writes."""
        backend = self.file_backend
        removals: List[tuple] = []
        self.file_backend = copy.copy(backend)
        for name in ('remove', 'rmtree'):
            setattr(
                self.file_backend, name,
                lambda path, name=name: removals.append((name, path)))
        try:
            yield
        finally:
            self.file_backend = backend
        for name, path in removals:
            getattr(backend, name)(path)
