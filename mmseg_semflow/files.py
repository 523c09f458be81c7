"""Files that are whole at any moment."""

import ctypes
import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterator, Union

PARTIAL = '.partial'


def write_bytes(path: Union[str, Path], data: bytes) -> None:
    """Write a file under a temporary name, flush it to the disk, and move it.

    What is under the final name is whole at any moment, after a power failure
    too. A process that is killed leaves at most ``<name>.partial``, which the
    next writing of the file replaces. Ranks of one training may write one file
    at the same time, as mmengine lets all of them write the figures of a test:
    the last one stays.

    Args:
        path (str | Path): The file; its folder is made where it is missing.
        data (bytes): Its content.

    Raises:
        OSError: If it cannot be written, for example because the disk is
            full; an older file of this name stays.
    """
    path = Path(path)
    partial = partial_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, 'wb') as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):  # of a disk that is gone or can only be read now
            partial.unlink()
        if isinstance(error, OSError):
            raise OSError(
                error.errno, f'{path} cannot be written ({error.strerror}): it '
                f'needs {len(data):,} bytes{_free(path.parent)}. Nothing half-'
                'written has this name, and files written before are whole'
            ) from error
        raise


def partial_of(path: Union[str, Path]) -> Path:
    """Tell the temporary name under which :func:`write_bytes` writes a file."""
    path = Path(path)
    rank = os.environ.get('RANK', '0')
    return path.with_name(
        path.name + (PARTIAL if rank == '0' else f'.{rank}{PARTIAL}'))


@contextmanager
def written_whole(path: Union[str, Path],
                  overwrite: bool = False) -> Iterator[Path]:
    """Let a file or a folder appear only once it is complete.

    For what is more than one file, or too large for :func:`write_bytes`. What
    is under the final name is whole whenever the process is killed, but unlike
    there a power failure may spoil it.

    Args:
        path (str | Path): Where it is to be; the folder around it is made
            where it is missing.
        overwrite (bool): Whether to replace what is there. Defaults to False;
            an empty folder is replaced in any case.

    Yields:
        Path: A temporary path on the same disk to write to.

    Raises:
        FileExistsError: If there is something that is not to be replaced.
    """
    path = Path(path)
    if path.exists() and not overwrite and not (
            path.is_dir() and not os.listdir(path)):
        raise FileExistsError(f'{path} is there already')
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
            dir=path.parent, prefix=f'.{path.name}.',
            ignore_cleanup_errors=True) as scratch:
        new = Path(scratch) / 'new'
        yield new
        if overwrite and path.is_dir():
            if _exchanged(new, path):
                return
            path.rename(Path(scratch) / 'old')
        os.replace(new, path)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two folders at once, where system and disk can.

    Between the two steps that stand in for it nothing is under the name.
    """
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def read_json(path: Union[str, Path]) -> dict:
    """Read the JSON object that a file holds.

    Raises:
        ValueError: If it holds anything else. The file is named.
    """
    try:
        found = json.loads(Path(path).read_bytes())
    # Of brackets without end the last.
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path} must hold a JSON object, but {error}') from error
    if not isinstance(found, dict):
        raise ValueError(
            f'{path} must hold a JSON object, but it holds {type(found).__name__}')
    return found


def check_records(path: Union[str, Path]) -> None:
    """Raise a ValueError if records of what torch wrote are damaged or too large.

    torch looks at neither their check sums nor what they would unpack to.

    Args:
        path (str | Path): The file; what is no zip file is not looked at.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as file:
        unpacked = sum(record.file_size for record in file.infolist())
        size = os.path.getsize(path)
        if unpacked > size:
            raise ValueError(
                f'its records, which torch writes uncompressed, would take '
                f'{unpacked:,} bytes, but the file has {size:,}')
        damaged = file.testzip()
    if damaged is not None:
        raise ValueError(f'the check sum of its record {damaged} is wrong')


def digest_of(path: Union[str, Path]) -> str:
    """Compute the beginning of the SHA-256 of a file, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while part := file.read(2**24):
            digest.update(part)
    return digest.hexdigest()[:16]


def _free(folder: Path) -> str:
    try:
        return f' and {shutil.disk_usage(folder).free:,} bytes are free there'
    except OSError:
        return ''


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
