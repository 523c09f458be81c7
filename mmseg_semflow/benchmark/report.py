"""Measurements in parts, whose results outlive whatever ends them.

Every part runs in a process of its own, within its own time limit, and is made of
cases. A case is written as soon as it is measured; what is written is not measured
again.
"""

import gc
import json
import os
import signal
import subprocess
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence

import torch

from mmseg_semflow.apis.tables import Row, to_markdown
from mmseg_semflow.files import read_json, write_bytes

Tables = Dict[str, List[Row]]
# What became of a part. One that was begun by a command that ended, by its own limit
# or killed, is begun still.
BEGUN, DONE, FAILED, STOPPED = 'begun', 'done', 'failed', 'stopped'
NOT_MEASURED = 'No figure was measured.'


@dataclass(frozen=True)
class Part:
    """A part of the report.

    Attributes:
        name (str): Names its file and its choice on the command line.
        title (str): Its heading.
        seconds (float): Its time limit.
        run (Callable): Measures it; takes a :class:`PartResults`, the sizes and the
            repository's root folder.
    """

    name: str
    title: str
    seconds: float
    run: Callable


class PartResults:
    """What was measured of one part, in a JSON file.

    Args:
        out (Path): Folder of the results.
        name (str): Name of the part.
    """

    def __init__(self, out: Path, name: str) -> None:
        self.out = Path(out)
        self.path = self.out / f'{name}.json'
        self.found = dict(status=None, seconds=0., note='', cases={})
        if self.path.is_file():
            self.found = read_json(self.path)

    @property
    def status(self) -> Optional[str]:
        """str: What became of it; None if it was never begun."""
        return self.found['status']

    @property
    def failures(self) -> List[str]:
        """List[str]: Names of the cases that failed."""
        return [name for name, case in self.found['cases'].items() if 'error' in case]

    def update(self, **values) -> None:
        """Change what is written beside the cases."""
        self.found.update(values)
        self._write()

    def has(self, name: str) -> bool:
        """Tell whether a case was measured, without an error."""
        return 'tables' in self.found['cases'].get(name, {})

    def measure(self, name: str, way: Callable[[], Tables]) -> None:
        """Measure a case and write it, unless it is there.

        An error is written in place of tables, and measured again next time.

        Args:
            name (str): The case.
            way (Callable): Returns rows by the name of their table.
        """
        if self.has(name):
            return
        print(f'\n== {name}', flush=True)
        start = time.perf_counter()
        try:
            case = dict(tables=way())
        except Exception as error:  # whatever it is: the next case may work
            traceback.print_exc()
            case = dict(error=f'{type(error).__name__}: {error}'[:1000])
        self.add(name, seconds=round(time.perf_counter() - start, 1), **case)
        gc.collect()
        torch.cuda.empty_cache()

    def add(self, name: str, **case) -> None:
        """Write a case: ``seconds`` and ``tables`` or ``error``."""
        self.found['cases'][name] = case
        self._write()

    def drop(self, name: str) -> None:
        """Forget a case, which is then measured again."""
        if self.found['cases'].pop(name, None) is not None:
            self._write()

    def rows(self, table: str) -> List[Row]:
        """List the rows of all cases in one table, with the case's name."""
        return [
            dict(case=name, **row) for name, case in self.found['cases'].items()
            for row in case.get('tables', {}).get(table, ())
        ]

    def _write(self) -> None:
        write_bytes(self.path, json.dumps(self.found, indent=1).encode())


def check_folder(out: Path, conditions: Row) -> None:
    """Note what the figures of a folder depend on, or compare it.

    Args:
        out (Path): Folder of the results.
        conditions (Row): Device, versions and whether it is a rehearsal.

    Raises:
        ValueError: If figures in it were measured in other conditions.
    """
    path = Path(out) / 'conditions.json'
    if path.is_file():
        found = read_json(path)
        for key, value in conditions.items():
            if found.get(key) != value:
                raise ValueError(
                    f'{out} has figures of {key} {found.get(key)!r}, but this is '
                    f'{value!r}: give another --out')
    write_bytes(path, json.dumps(conditions, indent=1).encode())


def run_parts(parts: Sequence[Part],
              out: Path,
              command: Callable[[Part], List[str]],
              write_page: Callable[[], None],
              seconds: Optional[float] = None) -> None:
    """Run parts in their order, each in a process with a time limit.

    First those that no command has ended, then those that failed or were stopped
    by their limits; what is done stays.

    Args:
        parts (Sequence[Part]): The parts, the worthiest first.
        out (Path): Folder of the results; what a part prints goes to its ``.log``.
        command (Callable): Makes the command line that runs a part.
        write_page (Callable): Called after every part.
        seconds (float, optional): When to end, whatever runs then: the next call
            goes on with it. Defaults to None, never.
    """
    end = time.monotonic() + (float('inf') if seconds is None else seconds)
    status = {part.name: PartResults(out, part.name).status for part in parts}
    waiting = [p for p in parts if status[p.name] in (None, BEGUN)]
    waiting += [p for p in parts if status[p.name] in (FAILED, STOPPED)]
    for part in waiting:
        left = end - time.monotonic()
        if left <= 0:
            break
        PartResults(out, part.name).update(status=BEGUN, note='')
        print(f'{part.name}: at most {min(part.seconds, left):.0f} s', flush=True)
        start = time.monotonic()
        code = _run_within(
            command(part), out / f'{part.name}.log', min(part.seconds, left))
        results = PartResults(out, part.name)
        spent = time.monotonic() - start
        results.update(
            seconds=round(results.found['seconds'] + spent, 1),
            **_verdict(results, code, part.seconds <= left, part))
        print(f'{part.name}: {results.status or BEGUN} after {spent:.0f} s '
              f'{results.found["note"]}', flush=True)
        write_page()


def _verdict(results: PartResults, code: Optional[int], own_limit: bool,
             part: Part) -> Row:
    """Tell what became of a part whose process has ended."""
    if code is None:
        if own_limit:
            return dict(
                status=STOPPED, note=f'stopped at its limit of {part.seconds:g} s')
        return dict(status=BEGUN, note='not finished: the command ended')
    if code:
        log = results.path.with_suffix('.log').read_text(errors='replace')
        last = log.strip().rpartition('\n')[2]
        return dict(status=FAILED, note=f'ended with code {code}: {last}'[:1000])
    if results.failures:
        return dict(status=FAILED, note=f'failed: {", ".join(results.failures)}')
    return dict(status=DONE, note='')


def _run_within(command: List[str], log: Path, seconds: float) -> Optional[int]:
    """Run a command; return its code, or None if it had to be stopped."""
    with open(log, 'ab') as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, start_new_session=True)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            # With all that it started, such as loaders and trainings.
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()


def end_with_parent(interval: float = 1.) -> None:
    """End this process and its group when its parent is gone, however it ended."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(interval)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def to_page(parts: Sequence[Part], out: Path, heading: str) -> str:
    """Lay out all parts, those without figures too.

    Args:
        parts (Sequence[Part]): The parts.
        out (Path): Folder of the results.
        heading (str): What stands above them.

    Returns:
        str: Markdown.
    """
    texts = [heading]
    for number, part in enumerate(parts, 1):
        results = PartResults(out, part.name)
        cases = results.found['cases']
        texts.append(f'## {number}. {part.title}')
        if results.status is not None:
            note = results.found['note']
            texts.append(f'{results.found["seconds"]:g} s'
                         f'{note and ": "}{_one_line(note)}.')
        tables = dict.fromkeys(
            table for case in cases.values() for table in case.get('tables', ()))
        if not tables:
            texts.append(NOT_MEASURED)
        for table in tables:
            texts.append(f'{table.capitalize()}:\n\n'
                         f'{to_markdown(results.rows(table))}'.rstrip())
        errors = [f'- {name}: {_one_line(cases[name]["error"])}'
                  for name in results.failures]
        if errors:
            texts.append('\n'.join(errors))
    return '\n\n'.join(texts) + '\n'


def _one_line(text: str) -> str:
    return ' '.join(text.split())
