"""Disks that fill and break, and processes that end, at any moment of a writing.

A call runs in a forked process, in which one of the steps by which Python changes
files, counted in order, goes wrong. What the process leaves is what a real one would.
"""

import builtins
import errno
import io
import os
import signal
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, Dict, NamedTuple

# EROFS: a disk that from then on can only be read. ESTALE: a network file system that
# is gone. clock: it is set back by a year, which is no error.
KINDS = ('ENOSPC', 'EIO', 'EINTR', 'EROFS', 'ESTALE', 'short', 'clock', 'SIGTERM',
         'SIGKILL')
LASTING = ('EROFS', 'ESTALE', 'clock')
YEAR = 365 * 24 * 3600
DONE, RAISED, BROKEN = 0, 3, 4
# Steps by which files are changed; writing through open is one besides.
STEPS = ('fsync', 'replace', 'rename', 'mkdir', 'unlink')
LOOKS = ('stat', 'lstat', 'listdir', 'scandir')


class _Faults:
    """Count steps, and let one of them go wrong.

    Args:
        at (int): Which, from 1; 0 for none.
        kind (str): One of ``KINDS``.
    """

    def __init__(self, at: int, kind: str) -> None:
        self.at, self.kind, self.count = at, kind, 0

    def now(self) -> bool:
        """Tell whether this step is the one, or after one that lasts."""
        return self.count == self.at or (
            0 < self.at < self.count and self.kind in LASTING)

    def step(self) -> bool:
        """Count a step; tell whether it writes only half."""
        self.count += 1
        if not self.now():
            return False
        if self.kind.startswith('SIG'):
            os.kill(os.getpid(), getattr(signal, self.kind))
        if self.kind in ('short', 'clock'):
            return self.kind == 'short'
        number = getattr(errno, self.kind)
        raise OSError(number, os.strerror(number))

    def install(self) -> None:
        """Put the steps in place of Python's own, in this process."""
        for name in STEPS:
            setattr(os, name, self._counted(getattr(os, name)))
        for name in LOOKS:
            setattr(os, name, self._gone(getattr(os, name)))
        builtins.open = io.open = self._open(builtins.open)
        for name, back in (('time', YEAR), ('time_ns', YEAR * 10**9)):
            setattr(time, name, self._set_back(getattr(time, name), back))

    def _gone(self, function: Callable) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.kind == 'ESTALE' and self.now():
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            return function(*args, **kwargs)

        return call

    def _set_back(self, function: Callable, back: int) -> Callable:
        return lambda: function() - back * (self.kind == 'clock' and self.now())

    def _counted(self, function: Callable) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.step():  # what cannot be done by half is not done
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            found = function(*args, **kwargs)
            if self.kind == 'clock' and self.now() and function.__name__ == 'replace':
                os.utime(args[1], (time.time(), time.time()))
            return found

        return call

    def _open(self, function: Callable) -> Callable:
        def call(file: Any, mode: str = 'r', *args: Any, **kwargs: Any) -> Any:
            if not set(mode) & set('wax+') or not isinstance(file, (str, os.PathLike)):
                return self._gone(function)(file, mode, *args, **kwargs)
            self.step()
            found = function(file, mode, *args, **kwargs)
            write = found.write

            def half(data: Any) -> int:
                if not self.step():
                    return write(data)
                write(data[:len(data) // 2])
                found.flush()
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            with suppress(AttributeError):  # of files in C, by a wrapper
                found.write = half
                return found
            return _Wrapped(found, half)

        return call


class _Wrapped:
    """A file whose ``write`` is another."""

    def __init__(self, file: Any, write: Callable) -> None:
        self._file, self.write = file, write

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> '_Wrapped':
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()


class Outcome(NamedTuple):
    """How a forked call ended: an exit code or minus a signal, and its steps."""

    code: int
    steps: int
    error: str


def run_forked(call: Callable[[], Any], at: int = 0, kind: str = 'EIO') -> Outcome:
    """Run a call in a forked process in which a step goes wrong.

    Args:
        call (Callable): What writes.
        at (int): Which of its steps goes wrong, from 1. Defaults to 0, none.
        kind (str): How, one of ``KINDS``. Defaults to ``'EIO'``.
    """
    with tempfile.TemporaryFile() as said:
        pid = os.fork()
        if pid == 0:
            code, text, faults = BROKEN, '', _Faults(at, kind)
            try:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                faults.install()
                call()
                code = DONE
            except OSError as error:
                code, text = RAISED, str(error)
            except BaseException as error:
                text = f'{type(error).__name__}: {error}'
            finally:
                os.write(said.fileno(), f'{faults.count} {text}'.encode())
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        said.seek(0)
        steps, _, text = said.read().decode().partition(' ')
        return Outcome(os.waitstatus_to_exitcode(status), int(steps or 0), text)


def contents(folder: Path) -> Dict[str, bytes]:
    """Read what stands in a folder under final names."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob('*'))
        if path.is_file() and not path.name.endswith('.partial')
        and not any(p.startswith('.') for p in path.relative_to(folder).parts)
    }
