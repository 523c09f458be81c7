"""Local files that are whole at any moment, as a backend of mmengine."""

from pathlib import Path
from typing import Union

from mmengine.fileio import LocalBackend

from mmseg_semflow.files import write_bytes


class AtomicLocalBackend(LocalBackend):
    """mmengine's backend for local files, which never leaves half a file.

    What is under the final name is whole at any moment, after a power failure
    too.
    """

    def put(self, obj: bytes, filepath: Union[str, Path]) -> None:
        """Write a file, see :func:`mmseg_semflow.files.write_bytes`."""
        write_bytes(filepath, obj)

    def put_text(self,
                 obj: str,
                 filepath: Union[str, Path],
                 encoding: str = 'utf-8') -> None:
        """Write a text, see :meth:`put`."""
        write_bytes(filepath, obj.encode(encoding))
