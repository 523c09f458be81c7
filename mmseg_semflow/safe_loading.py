"""Reading of checkpoints that executes no code."""

import os.path as osp
import pickle
from pathlib import Path
from typing import Any, Dict, Union

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor

from .files import check_records

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
ALLOWED = [
    HistoryBuffer, np.ndarray, np.dtype,
    *(type(np.dtype(kind)) for kind in '?bBhHiIlLqQefd'),
    (_history_buffer_getattr, 'builtins.getattr'),
    *((function, f'{module}.{function.__name__}')
      for function in (_reconstruct, scalar)
      for module in ('numpy.core.multiarray', 'numpy._core.multiarray'))
]


def load_from_local(filename: str, map_location: Any = 'cpu') -> Any:
    """Load a local checkpoint.

    Args:
        filename (str): Path of the checkpoint.
        map_location (Any): As in ``torch.load``. Defaults to ``'cpu'``.

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
        check_records(filename)
        with torch.serialization.safe_globals(ALLOWED):
            return torch.load(
                filename, map_location=map_location, weights_only=True)
    # Whatever there is: the unpickler takes any text for opcodes.
    except Exception as error:
        raise ValueError(
            f'checkpoint {filename} cannot be read: it is truncated, no '
            f'checkpoint, or holds more than weights '
            f'({str(error) or type(error).__name__})') from error


def weights_in(loaded: Any, source: Union[str, Path]) -> Dict[str, Tensor]:
    """Take the weights from what a file holds.

    Args:
        loaded (Any): A state dict or a checkpoint, whose ``state_dict`` is taken, or
            ``module``, as DeepSpeed's ``mp_rank_00_model_states.pt`` has it.
        source (str | Path): The file, for the error.

    Returns:
        Dict[str, Tensor]: The weights, without what ``DistributedDataParallel``
        puts before names, ``module.``.

    Raises:
        ValueError: If there are none.
    """
    if isinstance(loaded, dict):
        loaded = loaded.get('state_dict', loaded.get('module', loaded))
    if not isinstance(loaded, dict) or not all(
            isinstance(key, str) and isinstance(value, Tensor)
            for key, value in loaded.items()):
        raise ValueError(f'{source} is no state dict: it must map names to '
                         'tensors, by itself or under the key state_dict, or '
                         "module in a file of DeepSpeed's states of the model")
    return {key.removeprefix('module.'): value for key, value in loaded.items()}


def load_from_anywhere(filename: str) -> Any:
    """Load a checkpoint of this disk, or one that mmengine fetches.

    Args:
        filename (str): A path, or an address with a scheme that mmengine's
            ``CheckpointLoader`` knows, such as ``https://``.

    Returns:
        Any: The loaded checkpoint, on the CPU.
    """
    if '://' not in filename:
        return load_from_local(filename)
    with torch.serialization.safe_globals(ALLOWED):
        return CheckpointLoader.load_checkpoint(filename, 'cpu')
