"""Running of a page of commands, as far as there are checkpoints and data."""

import csv
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, Iterator, List, Mapping, Optional, Tuple, Union

from mmengine.config import Config
from mmengine.registry import METRICS, init_default_scope

from mmseg_semflow.apis.tables import Row, to_markdown
from mmseg_semflow.datasets.layout import check_layout
from mmseg_semflow.extras import reason
from mmseg_semflow.files import write_bytes

# What the page's functions `of` and `weights` are given.
NAMES = re.compile(r'\$\((?:of|weights) ([^)]+)\)')
METRICS_GIVEN = re.compile(r'--metrics((?: [A-Za-z]\w*)+)')
TABLES = ('segmentation.csv', 'synthesis.csv')
PICTURES = ('.png', '.gif')
# The functions of the page, for checkpoints that are listed in $LISTED, one
# `NAME\tCONFIG\tCHECKPOINT` a line.
FUNCTIONS = r"""
of() { for name in "$@"; do
    awk -F '\t' -v n="$name" '$1 == n {print $2; print $3}' "$LISTED"; done; }
weights() { awk -F '\t' -v n="$1" '$1 == n {print $3}' "$LISTED"; }
python() { "$PYTHON" "$@"; }
IFS=$'\n'  # spaces belong to the names of files
set -o pipefail
"""
LINK = re.compile(r'\]\((?![a-z]+:|#)([^)#]+)')


@dataclass
class Section:
    """A part of the page.

    Attributes:
        title (str): Its heading.
        lines (List[str]): Its text, without the commands.
        commands (List[str]): Of its blocks of bash.
    """

    title: str
    lines: List[str] = field(default_factory=list)
    commands: List[str] = field(default_factory=list)

    @property
    def folder(self) -> str:
        """str: The folder in ``$OUT`` to which its commands write."""
        return re.sub(r'\W+', '_', self.title.lower())


def read_page(text: str) -> List[Section]:
    """Read the sections of a Markdown page that have commands to run.

    Args:
        text (str): The page. A command is a line of a block of bash below a
            heading of the second level, and may be continued by backslashes.

    Returns:
        List[Section]: Those with a heading of the second level.
    """
    sections: List[Section] = []
    block: Optional[List[str]] = None
    for line in text.splitlines():
        if line.startswith('## '):
            sections.append(Section(line[3:]))
        elif not sections:
            continue
        elif line == '```bash':
            block = []
        elif line == '```' and block is not None:
            joined = '\n'.join(block).replace('\\\n', ' ')
            sections[-1].commands += [
                ' '.join(command.split()) for command in joined.splitlines()
            ]
            block = None
        elif block is not None:
            block.append(line)
        else:
            sections[-1].lines.append(line)
    return sections


def names_in(command: str) -> List[str]:
    """List the names of configs whose checkpoints a command wants."""
    return list(
        dict.fromkeys(name for names in NAMES.findall(command)
                      for name in names.split()))


class Reproduction:
    """Run the commands of a page and write another one with what they made.

    A command runs once its checkpoints are named and their test data are
    there; one that has run with the same checkpoints is not repeated.

    Args:
        page (str | Path): The page, ``docs/paper.md``.
        checkpoints (Mapping[str, str]): By names of configs, without
            ``configs/`` and ``.py``.
        out (str | Path): The folder to write.

    Raises:
        FileNotFoundError: If there is no such page or checkpoint.
        ValueError: If no command of the page wants a checkpoint of that name.
    """

    def __init__(self, page: Union[str, Path], checkpoints: Mapping[str, str],
                 out: Union[str, Path]) -> None:
        self.page = Path(page).absolute()
        self.root = self.page.parents[1]
        self.out = Path(out).resolve()
        self.sections = read_page(Path(page).read_text())
        self.checkpoints = {
            name: Path(path).resolve() for name, path in checkpoints.items()
        }
        known = [
            name for section in self.sections for command in section.commands
            for name in names_in(command)
        ]
        for name, path in self.checkpoints.items():
            if name not in known:
                raise ValueError(
                    f'{page} has no command for {name!r}; it has some for '
                    f'{", ".join(sorted(set(known)))}')
            if not path.is_file():
                raise FileNotFoundError(
                    f'there is no checkpoint {path} for {name}')
        self._data: Dict[str, str] = {}

    def config_of(self, name: str) -> Path:
        """Find the config of a name."""
        path = self.root / f'configs/{name}.py'
        return path if path.is_file() else (
            self.root / f'configs/comparison/{name}.py')

    def missing(self, command: str) -> str:
        """Say what a command lacks; '' if it can run."""
        names = names_in(command)
        absent = [name for name in names if name not in self.checkpoints]
        if absent:
            return f'no checkpoint of {", ".join(absent)} is named'
        for name in names:
            if name not in self._data:
                self._data[name] = self._missing_data(name)
            if self._data[name]:
                return self._data[name]
        given = METRICS_GIVEN.search(command)
        for name in given[1].split() if given else ():
            lacking = METRICS.build(dict(type=name)).missing
            if lacking:
                return lacking
        return ''

    def _missing_data(self, name: str) -> str:
        try:
            cfg = Config.fromfile(self.config_of(name))
        except ImportError as error:
            return reason(error)
        init_default_scope('mmseg')
        dataset = dict(cfg.test_dataloader.dataset)
        dataset.pop('_scope_', None)
        if not os.path.isabs(dataset['data_root']):
            dataset['data_root'] = str(self.root / dataset['data_root'])
        try:
            check_layout(dataset)
        except (ValueError, OSError) as error:
            return str(error)
        return ''

    def _mark(self, command: str) -> Path:
        """Name the file that tells that a command has run with its weights."""
        stats = [self.checkpoints[name].stat() for name in names_in(command)]
        text = json.dumps([command, [[s.st_size, s.st_mtime_ns] for s in stats]])
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        return self.out / 'done' / f'{digest}.json'

    def run(self) -> Iterator[Tuple[str, str, str]]:
        """Run what can run, in the page's order.

        Yields:
            Tuple[str, str, str]: Title of the section, the command, and what
            became of it, after ``paper.md`` was written anew.
        """
        states: Dict[str, str] = {}
        for section in self.sections:
            for command in section.commands:
                states[command] = self._run(section, command)
                self._write(states)
                yield section.title, command, states[command]

    def _run(self, section: Section, command: str) -> str:
        missing = self.missing(command)
        if missing:
            return f'left out: {missing}'
        mark = self._mark(command)
        if not mark.is_file():
            print(f'\n== {section.title}\n{command}', flush=True)
            start = time.time()
            code = self._call(section, command)
            if code:
                return f'failed (exit status {code}), see {self._log(section)}'
            seconds = round(time.time() - start)
            write_bytes(mark, json.dumps(
                dict(command=command, seconds=seconds)).encode())
        return f'done in {json.loads(mark.read_text())["seconds"]} s'

    def _log(self, section: Section) -> Path:
        return self.out / section.folder / 'log.txt'

    def _call(self, section: Section, command: str) -> int:
        """Run a command in the shell, its output shown and kept."""
        log = self._log(section)
        log.parent.mkdir(parents=True, exist_ok=True)
        listed = self.out / 'checkpoints.txt'
        write_bytes(listed, ''.join(
            f'{name}\t{self.config_of(name)}\t{path}\n'
            for name, path in self.checkpoints.items()).encode())
        return subprocess.run(
            ['bash', '-c', f'{FUNCTIONS}{{ {command}; }} 2>&1 | tee -a "$LOG"'],
            cwd=self.root,
            env=dict(
                os.environ, OUT=str(self.out), LOG=str(log),
                LISTED=str(listed), PYTHON=sys.executable)).returncode

    def _write(self, states: Mapping[str, str]) -> None:
        """Write the page of what was made so far."""
        parts = ['# The paper, as reproduced']
        for section in self.sections:
            parts += [f'## {section.title}', self._text_of(section)]
            parts += [
                f'- `{command}`: {states[command]}'
                for command in section.commands if command in states
            ]
            parts += self._found(self.out / section.folder)
        text = '\n\n'.join(part for part in parts if part)
        text = re.sub(r'(\n- .*)\n\n(?=- )', r'\1\n', text)
        write_bytes(self.out / 'paper.md', f'{text}\n'.encode())

    def _text_of(self, section: Section) -> str:
        """Give its text, with links that lead to the same pages."""
        folder = self.page.parent
        return LINK.sub(
            lambda link: f']({os.path.relpath(folder / link[1], self.out)}',
            '\n'.join(section.lines)).strip()

    def _found(self, folder: Path) -> Iterator[str]:
        """Show the tables and pictures below a folder, rows of one kind together.

        The first column is the folder in it that a row is from.
        """
        for name, read in (*((table, _read_rows) for table in TABLES),
                           ('[0-9]*_[0-9]*.json', _read_figures)):
            rows = [
                dict({'from': path.relative_to(folder).parts[0]}, **row)
                for path in sorted(folder.rglob(name)) for row in read(path)
            ]
            if rows:
                yield to_markdown(rows)
        for path in sorted(folder.rglob('comparison.md')):
            told = [line for line in path.read_text().splitlines()
                    if line and line[0] not in '|#']
            yield f'{path.relative_to(folder).parts[0]}: {" ".join(told)}'
        for path in sorted(folder.rglob('*')):
            if path.suffix in PICTURES:
                relative = path.relative_to(self.out).as_posix()
                yield f'![{relative}]({relative.replace(" ", "%20")})'


def _read_figures(path: Path) -> List[Row]:
    """Read what mmengine's logger writes of a test."""
    return [{
        key: value
        for key, value in json.loads(path.read_text()).items()
        if isinstance(value, (int, float)) and 'time' not in key
    }]


def _read_rows(path: Path) -> List[Row]:
    with open(path, newline='') as file:
        rows = list(csv.DictReader(file))
    return [{
        key: _number(value)
        for key, value in row.items() if value != ''
    } for row in rows]


def _number(text: str) -> Union[str, int, float]:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
