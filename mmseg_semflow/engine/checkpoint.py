"""Local checkpoints: reading executes no code, writing is all or nothing."""

import os.path as osp
import pickle
from pathlib import Path
from typing import Any, Union

import numpy as np
import torch
from mmengine.fileio import LocalBackend, register_backend
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader

from mmseg_semflow.files import write_bytes

try:
    from numpy._core.multiarray import _reconstruct, scalar
except ImportError:
    from numpy.core.multiarray import _reconstruct, scalar


def _history_buffer_getattr(obj: Any, name: str) -> Any:
    if obj is HistoryBuffer and name in ('min', 'max', 'current', 'mean'):
        return getattr(obj, name)
    raise pickle.UnpicklingError(f'getattr({obj!r}, {name!r}) refused')


# What mmengine's own checkpoints hold besides tensors: torch >= 2.6 refuses
# these by default. A plain getattr on the list would reach anything.
torch.serialization.add_safe_globals([
    HistoryBuffer, np.ndarray, np.dtype,
    *(type(np.dtype(kind)) for kind in '?bBhHiIlLqQefd'),
    (_history_buffer_getattr, 'builtins.getattr'),
    *((function, f'{module}.{function.__name__}')
      for function in (_reconstruct, scalar)
      for module in ('numpy.core.multiarray', 'numpy._core.multiarray'))
])


@CheckpointLoader.register_scheme(prefixes='', force=True)
def load_from_local(filename: str, map_location: Any) -> Any:
    """Load a local checkpoint, in place of mmengine's function of this name.

    Args:
        filename (str): Path of the checkpoint.
        map_location (Any): As in ``torch.load``.

    Returns:
        Any: The loaded checkpoint.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is truncated, no checkpoint, or holds objects
            that loading could execute.
    """
    filename = osp.expanduser(filename)
    if not osp.isfile(filename):
        raise FileNotFoundError(f'{filename} can not be found.')
    try:
        return torch.load(
            filename, map_location=map_location, weights_only=True)
    # The last three from the unpickler, which takes any text for opcodes.
    except (RuntimeError, EOFError, pickle.UnpicklingError, LookupError,
            ValueError, AttributeError) as error:
        raise ValueError(
            f'checkpoint {filename} cannot be read: it is truncated, no '
            f'checkpoint, or holds more than weights '
            f'({error or type(error).__name__})') from error


@register_backend('local', force=True, prefixes='')
class AtomicLocalBackend(LocalBackend):
    """mmengine's backend for local files, which never leaves half a file.

    mmengine writes its checkpoints through it. What is under the final name
    is whole at any moment, after a power failure too.
    """

    def put(self, obj: bytes, filepath: Union[str, Path]) -> None:
        """Write a file, see :func:`mmseg_semflow.files.write_bytes`."""
        write_bytes(filepath, obj)
