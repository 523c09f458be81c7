"""What the converters of datasets have in common."""

from pathlib import Path
from typing import Any, Callable, List, Sequence

import cv2
import mmcv
import numpy as np
from mmengine.utils import track_parallel_progress, track_progress

from mmseg_semflow.files import write_bytes

from .layout import describe_missing

JPEG = ('.jpg', (cv2.IMWRITE_JPEG_QUALITY, 95))
PNG = ('.png', ())


def require(*paths: Path) -> None:
    """Raise a ValueError that names the first missing file or folder."""
    for path in paths:
        if not path.exists():
            raise ValueError(describe_missing(str(path)))


def read_pixels(path: Path, flag: str = 'color') -> np.ndarray:
    """Read all of a picture.

    Args:
        path (Path): The file.
        flag (str): ``'color'`` or ``'grayscale'``. Defaults to ``'color'``.

    Returns:
        np.ndarray: BGR, uint8, shape (H, W, 3), or gray, (H, W).

    Raises:
        ValueError: If it is missing or damaged. The error names the file.
    """
    require(path)
    try:
        # Pillow refuses a truncated file, OpenCV makes its end gray.
        return mmcv.imread(path, flag, backend='pillow')
    # Pillow's readers raise what their bytes lead to.
    except Exception as error:
        raise ValueError(
            f'{path} cannot be read as a picture: {error}') from error


def write_pixels(path: Path, pixels: np.ndarray) -> None:
    """Write BGR or gray pixels, uint8, as the suffix of the file says."""
    suffix, options = JPEG if path.suffix == '.jpg' else PNG
    write_bytes(path, cv2.imencode(suffix, pixels, options)[1].tobytes())


def convert_all(function: Callable, tasks: Sequence[Any],
                nproc: int) -> List[Any]:
    """Call a function for every task, with a progress bar.

    Args:
        function (Callable): Takes a task.
        tasks (Sequence): The tasks, possibly none.
        nproc (int): Number of processes.

    Returns:
        List: The results.
    """
    if not tasks:
        return []
    if nproc == 1:
        return track_progress(function, tasks)
    return track_parallel_progress(function, tasks, nproc)
