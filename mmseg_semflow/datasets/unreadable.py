"""Errors that name an image or a label map that cannot be read."""

import struct
import zlib
from contextlib import contextmanager
from traceback import walk_tb
from typing import Any, Iterator, Optional

import cv2
from mmcv.transforms import BaseTransform
from PIL import Image

# What readers raise on bytes that are no whole image: Pillow the first line,
# OpenCV the next, mmseg and mmcv the last two, on the None of OpenCV.
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error,
           LookupError, TypeError, ArithmeticError, MemoryError,
           Image.DecompressionBombError, cv2.error, AttributeError, AssertionError)


class UnreadableImageError(OSError):
    """An image or a label map that is there but cannot be read."""


@contextmanager
def naming_damaged_files() -> Iterator[None]:
    """Let an error of a damaged file name it.

    Raises:
        UnreadableImageError: If a transform that loads images or label maps
            failed on one. Any other error is passed on.
    """
    try:
        yield
    except (FileNotFoundError, UnreadableImageError):
        raise
    except DAMAGED as error:
        path = _file_at_fault(error)
        if path is None:
            raise
        raise UnreadableImageError(
            f'{path} cannot be read: it is damaged or no image ({error})'
        ) from error


def _file_at_fault(error: BaseException) -> Optional[str]:
    """Find the transform that was loading a file, if one was."""
    for frame, _ in walk_tb(error.__traceback__):
        transform = frame.f_locals.get('self')
        results: Any = frame.f_locals.get('results')
        if not isinstance(transform, BaseTransform) or \
                not isinstance(results, dict):
            continue
        # By name: of mmcv's, mmseg's and their heirs, whatever they read with.
        names = [base.__name__ for base in type(transform).__mro__]
        if not any(name.startswith('Load') for name in names):
            continue
        if not any('Annotation' in name for name in names):
            return results.get('img_path')
        # mmseg's own assertion is about reduce_zero_label.
        if not isinstance(error, AssertionError):
            return results.get('seg_map_path')
    return None


class NamedFiles:
    """Mixin before a dataset of mmsegmentation: errors name damaged files."""

    def prepare_data(self, idx: int) -> Any:
        """Read an item, see :func:`naming_damaged_files`."""
        with naming_damaged_files():
            return super().prepare_data(idx)
