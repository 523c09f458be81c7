"""mmcv's and mmseg's loading of files, with errors that name a damaged one."""

import struct
import zlib
from contextlib import contextmanager
from typing import Dict, Iterator

import cv2
from mmcv.transforms import LoadImageFromFile as MMCVLoadImageFromFile
from mmseg.datasets.transforms import LoadAnnotations as MMSegLoadAnnotations
from mmseg.registry import TRANSFORMS

# What the readers raise on bytes that are no whole image: Pillow the first
# five, OpenCV the sixth, and mmseg the last, on the None of OpenCV.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error,
            cv2.error, AttributeError)


class UnreadableImageError(OSError):
    """An image or a label map that is there but cannot be read."""


@contextmanager
def _naming(path: str, errors: tuple) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except errors as error:
        raise UnreadableImageError(
            f'{path} cannot be read: it is damaged or no image ({error})'
        ) from error


@TRANSFORMS.register_module()
class LoadImageFromFile(MMCVLoadImageFromFile):
    """mmcv's transform of this name, with an error for a damaged image.

    mmseg's configs get it under the name they use already. Training skips
    such an image (:class:`SeededDataset`), validation stops.
    """

    def transform(self, results: Dict) -> Dict:
        """Load the image.

        Args:
            results (dict): With ``img_path``.

        Returns:
            dict: With ``img``, ``img_shape`` and ``ori_shape`` added.

        Raises:
            FileNotFoundError: If there is no such file.
            UnreadableImageError: If it is no whole image.
        """
        with _naming(results['img_path'], (*_DAMAGED, AssertionError)):
            return super().transform(results)


@TRANSFORMS.register_module(force=True)
class LoadAnnotations(MMSegLoadAnnotations):
    """mmseg's transform of this name, with an error for a damaged label map."""

    def _load_seg_map(self, results: Dict) -> None:
        with _naming(results['seg_map_path'], _DAMAGED):
            super()._load_seg_map(results)
