"""Datasets in shards: tar files of WebDataset, Parquet files of Hugging Face.

Any dataset of mmsegmentation reads them, with its classes, its pipeline and all
that the training does for files in folders: every sample by its place, so that ranks,
workers and resuming need nothing else.
"""

import json
import posixpath
import re
import tarfile
from abc import abstractmethod
from contextlib import contextmanager
from functools import cache, lru_cache
from typing import Any, Dict, Iterator, List, Tuple, Union

import fsspec
from mmengine.fileio import BaseStorageBackend, register_backend

from mmseg_semflow.extras import MissingExtraError


class ShardBackend(BaseStorageBackend):
    """Files that lie in shards, as a backend of mmengine.

    A path is ``PREFIX://FOLDER/SHARD/NAME``. With the prefix neither datasets nor
    transforms need ``backend_args``. With ``backend_args=dict(backend='tar',
    filesystem='s3')``, of the dataset and of what loads, ``FOLDER`` lies on any file
    system of fsspec, and nothing is copied: bytes are read as they are asked for.

    Args:
        filesystem (str): Protocol of fsspec. Defaults to ``'file'``.
        **options (Any): Arguments of the file system, as JSON has them.
    """

    prefix: str
    suffix: str

    def __init__(self, filesystem: str = 'file', **options: Any) -> None:
        self._key = filesystem, json.dumps(options, sort_keys=True)

    @abstractmethod
    def names(self, shard: str) -> List[str]:
        """List what a shard holds.

        Args:
            shard (str): Its path, without prefix.

        Returns:
            List[str]: Names, in the order of the shard.

        Raises:
            ValueError: If it is damaged. The error names it.
        """

    @abstractmethod
    def read(self, shard: str, name: str) -> bytes:
        """Read what a shard holds under a name.

        Raises:
            FileNotFoundError: If it holds no such name.
            ValueError: If it is damaged.
        """

    def get(self, filepath: str) -> bytes:
        """Read a file.

        Args:
            filepath (str): ``PREFIX://FOLDER/SHARD/NAME``.

        Raises:
            FileNotFoundError: If there is no such shard, or no such name in it.
            ValueError: If the shard is damaged.
        """
        shard, name = self._split(filepath)
        if not name:
            raise FileNotFoundError(
                f'{filepath} must name a file in a shard, a *{self.suffix}')
        return self.read(shard, name)

    def get_text(self, filepath: str, encoding: str = 'utf-8') -> str:
        """Read a file as text."""
        return self.get(filepath).decode(encoding)

    def join_path(self, filepath: str, *filepaths: str) -> str:
        """Join parts of a path."""
        return posixpath.join(filepath, *filepaths)

    def exists(self, filepath: str) -> bool:
        """Tell whether there is a file, a shard, or a folder with shards."""
        return self.isdir(filepath) or self.isfile(filepath)

    def isdir(self, filepath: str) -> bool:
        """Tell whether it is a shard, or a folder that holds some."""
        shard, name = self._split(filepath)
        return not name and bool(self._shards(shard))

    def isfile(self, filepath: str) -> bool:
        """Tell whether it is a file in a shard."""
        shard, name = self._split(filepath)
        return bool(name) and self._system.isfile(shard) and \
            name in self.names(shard)

    def list_dir_or_file(self,
                         dir_path: str,
                         list_dir: bool = True,
                         list_file: bool = True,
                         suffix: Union[str, Tuple[str, ...], None] = None,
                         recursive: bool = False) -> Iterator[str]:
        """List shards, or what they hold.

        Args:
            dir_path (str): A shard, or a folder of shards.
            list_dir (bool): Whether to list shards, if it is a folder.
            list_file (bool): Whether to list files: those of all shards of a folder
                if ``recursive``.
            suffix (str | Tuple[str, ...], optional): What files end with.
                Defaults to None, anything.
            recursive (bool): Whether to look into shards. Defaults to False.

        Yields:
            str: Paths relative to ``dir_path``.
        """
        folder, _ = self._split(dir_path)
        for shard in self._shards(folder):
            inside = posixpath.relpath(shard, self._system._strip_protocol(folder))
            inside = '' if inside == '.' else f'{inside}/'
            if inside and list_dir:
                yield inside[:-1]
            if list_file and (recursive or not inside):
                for name in self.names(shard):
                    if suffix is None or name.endswith(suffix):
                        yield inside + name

    def _split(self, path: str) -> Tuple[str, str]:
        """Split a path into that of a shard, or a folder, and a name."""
        path = str(path).removeprefix(f'{self.prefix}://')
        found = re.match(rf'(.*?{re.escape(self.suffix)})(?:/(.*))?$', path)
        return (found[1], found[2] or '') if found else (path.rstrip('/'), '')

    def _shards(self, folder: str) -> List[str]:
        if folder.endswith(self.suffix):
            return [folder] if self._system.isfile(folder) else []
        return sorted(self._system.glob(f'{folder}/**/*{self.suffix}'))

    @property
    def _system(self) -> fsspec.AbstractFileSystem:
        return _system_of(self._key)


class TarBackend(ShardBackend):
    """Shards of WebDataset: ``tar://FOLDER/SHARD.tar/KEY.EXTENSION``.

    The headers of a shard are read once in a process, then every file is read at its
    place. Compressed archives have no such places.
    """

    prefix, suffix = 'tar', '.tar'

    def names(self, shard: str) -> List[str]:
        """List the regular files of a shard."""
        return list(_index_tar(self._key, shard))

    def read(self, shard: str, name: str) -> bytes:
        """Read a file of a shard."""
        index = _index_tar(self._key, shard)
        if name not in index:
            raise FileNotFoundError(f'{shard} holds no {name}')
        start, size = index[name]
        found = self._system.cat_file(shard, start=start, end=start + size)
        if len(found) != size:
            raise ValueError(f'{shard} is damaged: {name} should have {size} bytes, '
                             f'but has {len(found)}')
        return found


class ParquetBackend(ShardBackend):
    """Hugging Face's image folders: ``parquet://FOLDER/SHARD.parquet/ROW.COLUMN``.

    A column is one of images (bytes and path) as ``datasets`` writes them, or of
    bytes. Rows are numbered in every file, by nine digits. A group of rows is read as
    a whole, and the last few are kept.
    """

    prefix, suffix = 'parquet', '.parquet'

    def names(self, shard: str) -> List[str]:
        """List all rows of all columns that can hold images."""
        groups, columns = _open_parquet(self._key, shard)
        return [
            f'{row:09d}.{column}' for row in range(groups[-1]) for column in columns
        ]

    def read(self, shard: str, name: str) -> bytes:
        """Read the image of a row."""
        groups, columns = _open_parquet(self._key, shard)
        number, _, column = name.partition('.')
        if not number.isdigit() or int(number) >= groups[-1] or column not in columns:
            raise FileNotFoundError(
                f'{shard} holds no {name}: it has {groups[-1]} rows of the columns '
                f'{", ".join(columns) or "none with images"}')
        group = next(i for i, end in enumerate(groups) if int(number) < end)
        begin = groups[group - 1] if group else 0
        values = _read_group(self._key, shard, group, column)
        if len(values) != groups[group] - begin:
            raise ValueError(
                f'{shard} is damaged: group {group} of its rows should have '
                f'{groups[group] - begin}, but has {len(values)}')
        value = values[int(number) - begin].as_py()
        found = value.get('bytes') if isinstance(value, dict) else value
        if found is None:
            raise ValueError(f'{shard} has no bytes in {name}, but {value}')
        return found


def _system_of(key: tuple) -> fsspec.AbstractFileSystem:
    filesystem, options = key
    # fsspec keeps one for a process; a forked one gets its own.
    return fsspec.filesystem(filesystem, **json.loads(options))


@cache
def _index_tar(key: tuple, shard: str) -> Dict[str, Tuple[int, int]]:
    """Tell where the files of a tar file begin, and their sizes."""
    try:
        with _system_of(key).open(shard) as file, \
                tarfile.open(fileobj=file, mode='r:') as tar:
            return {
                member.name.removeprefix('./'): (member.offset_data, member.size)
                for member in tar if member.isreg()
            }
    except FileNotFoundError:
        raise
    # Of sizes that are no numbers, and of names that are no text.
    except Exception as error:
        raise ValueError(f'{shard} must be an uncompressed tar file, but {error}') \
            from error


@cache
def _open_parquet(key: tuple, shard: str) -> Tuple[List[int], List[str]]:
    """Tell where the groups of rows end, and which columns can hold images."""
    with _parquet(key, shard) as file:
        meta, schema, ends = file.metadata, file.schema_arrow, [0]
        for group in range(meta.num_row_groups):
            ends.append(ends[-1] + meta.row_group(group).num_rows)
        return ends[1:] or [0], [
            field.name for field in schema if str(field.type) == 'binary'
            or str(field.type).startswith('struct<bytes: binary')
        ]


# Images of a hundred rows, two columns of them.
@lru_cache(maxsize=4)
def _read_group(key: tuple, shard: str, group: int, column: str) -> Any:
    with _parquet(key, shard) as file:
        return file.read_row_group(group, columns=[column]).column(column)


@contextmanager
def _parquet(key: tuple, shard: str) -> Iterator[Any]:
    """Open a Parquet file."""
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise MissingExtraError(f'parquet://{shard}', 'pyarrow', 'parquet',
                                error) from error
    with _system_of(key).open(shard) as file:
        try:
            yield ParquetFile(file)
        # Arrow's own, and an OSError for pages that are damaged.
        except Exception as error:
            raise ValueError(f'{shard} must be a Parquet file, but {error}') from error


for _backend in (TarBackend, ParquetBackend):
    register_backend(_backend.prefix, _backend, prefixes=_backend.prefix)
