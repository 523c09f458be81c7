"""Errors that name an image or a label map that cannot be read."""

import struct
import zlib
from contextlib import contextmanager
from typing import Any, Iterator, Optional

import cv2
import mmcv
from mmengine import fileio

# What readers raise on bytes that are no whole image: Pillow the first five,
# OpenCV the sixth, mmcv and mmseg the last two, on the None of OpenCV.
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error,
           cv2.error, AttributeError, AssertionError)


class UnreadableImageError(OSError):
    """An image or a label map that is there but cannot be read."""


@contextmanager
def naming_damaged_files(dataset: Any, index: int) -> Iterator[None]:
    """Let an error of a damaged file name it.

    Args:
        dataset (Any): A dataset of mmsegmentation, or one that wraps some.
        index (int): Which item is read in this context.

    Raises:
        UnreadableImageError: If one of its files is no whole image. Any other
            error is passed on.
    """
    try:
        yield
    except (FileNotFoundError, UnreadableImageError):
        raise
    except DAMAGED as error:
        path = _damaged_file(dataset, index)
        if path is None:
            raise
        raise UnreadableImageError(
            f'{path} cannot be read: it is damaged or no image ({error})'
        ) from error


def _damaged_file(dataset: Any, index: int) -> Optional[str]:
    """Read both files of an item again, to find the one to blame."""
    if not hasattr(dataset, 'get_data_info'):
        return None
    info = dataset.get_data_info(index)
    backend_args = getattr(dataset, 'backend_args', None)
    # By the readers that mmcv and mmseg take unless told otherwise.
    for key, flag, reader in (('img_path', 'color', 'cv2'),
                              ('seg_map_path', 'unchanged', 'pillow')):
        path = info.get(key)
        if path is None:
            continue
        data = fileio.get(path, backend_args=backend_args)
        try:
            if mmcv.imfrombytes(data, flag=flag, backend=reader) is None:
                return path
        except DAMAGED:
            return path
    return None


class NamedFiles:
    """Mixin before a dataset of mmsegmentation: errors name damaged files."""

    def prepare_data(self, idx: int) -> Any:
        """Read an item, see :func:`naming_damaged_files`."""
        with naming_damaged_files(self, idx):
            return super().prepare_data(idx)
