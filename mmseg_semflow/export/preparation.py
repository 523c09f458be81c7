"""Pictures on their way to the network, as a test pipeline prepares them."""

from pathlib import Path
from typing import Any, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mmseg_semflow.arguments import fits
from mmseg_semflow.synthesis.pictures import read_rgb, rgb_of

# Names of mmcv and PIL, and those of OpenCV.
INTERPOLATIONS = dict(
    nearest='INTER_NEAREST', bilinear='INTER_LINEAR', bicubic='INTER_CUBIC',
    lanczos='INTER_LANCZOS4')
Picture = Union[str, Path, np.ndarray, Image.Image]


def to_rgb(image: Picture) -> np.ndarray:
    """Give a picture as RGB, uint8, shape (H, W, 3).

    Args:
        image (str | Path | np.ndarray | Image): A file or a picture of PIL, which
            is turned as its EXIF says, or an array that is RGB already.

    Raises:
        ValueError: If it cannot be read or is no such array.
    """
    if isinstance(image, Image.Image):
        return rgb_of(image)
    if not isinstance(image, np.ndarray):
        return read_rgb(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError('an image must be uint8 of shape (H, W, 3), RGB, but got '
                         f'{image.dtype} of {image.shape}')
    return image


class Preparation:
    """Resize and pad pictures as mmsegmentation's test pipeline does, and back.

    Args:
        resize (dict, optional): ``scale``, (width, height), ``keep_ratio``,
            ``interpolation`` and its ``backend``, ``'cv2'`` or ``'pillow'``, as in
            the transform. Defaults to None, not resized.
        pad (dict, optional): ``size`` (height, width) or ``size_divisor``, to
            which is padded at the right and at the bottom, with ``value`` in
            [-1, 1]. Defaults to None, not padded.

    Raises:
        ValueError: If an argument is otherwise.
    """

    def __init__(self, resize: Optional[dict] = None,
                 pad: Optional[dict] = None) -> None:
        if not (resize is None or _are(
                resize, scale=Tuple[int, int], keep_ratio=bool, interpolation=str,
                backend=str) and min(resize['scale']) > 0):
            raise ValueError('resize must have scale (two numbers above 0), '
                             'keep_ratio, interpolation and backend, but got '
                             f'{resize!r}')
        if resize is not None:
            check_interpolation(resize['interpolation'], resize['backend'])
        if not (pad is None or _are(pad, size_divisor=int, value=float)
                and pad['size_divisor'] > 0
                or _are(pad, size=Tuple[int, int], value=float)):
            raise ValueError('pad must have size (height, width) or size_divisor '
                             f'(above 0), and value, but got {pad!r}')
        self.resize = resize
        self.pad = pad

    def size_of(self, size: Sequence[int]) -> Tuple[int, int]:
        """Tell to what height and width a picture (H, W) is resized."""
        height, width = size
        if self.resize is None:
            return height, width
        scale = self.resize['scale']
        if not self.resize['keep_ratio']:
            return scale[1], scale[0]
        factor = min(
            max(scale) / max(height, width), min(scale) / min(height, width))
        return int(height * factor + 0.5), int(width * factor + 0.5)

    def __call__(self, image: np.ndarray) -> Tensor:
        """Prepare a picture.

        Args:
            image (np.ndarray): RGB, uint8, shape (H, W, 3).

        Returns:
            Tensor: In [-1, 1], shape (1, 3, h, w).
        """
        if self.resize is not None:
            image = _resize(
                image, self.size_of(image.shape[:2]), self.resize['interpolation'],
                self.resize['backend'])
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()
        pixels = (pixels - 127.5) / 127.5
        if self.pad is None:
            return pixels
        sides = pixels.shape[-2:]
        if 'size' in self.pad:
            wanted = map(max, zip(self.pad['size'], sides, strict=True))
        else:
            divisor = self.pad['size_divisor']
            wanted = (-(-side // divisor) * divisor for side in sides)
        bottom, right = (
            w - side for w, side in zip(wanted, sides, strict=True))
        return nn.functional.pad(
            pixels, (0, right, 0, bottom), value=self.pad['value'])

    def restore(self, maps: Tensor, size: Sequence[int]) -> Tensor:
        """Bring maps (1, D, h, w) of a prepared picture to its size (H, W)."""
        height, width = self.size_of(size)
        return nn.functional.interpolate(
            maps[..., :height, :width], tuple(size), mode='bilinear',
            align_corners=False)

    @property
    def settings(self) -> dict:
        """dict: Its arguments, as plain numbers."""
        return dict(resize=self.resize, pad=self.pad)


def _are(found: Any, **kinds: Any) -> bool:
    """Tell whether a dict has such keys, and no others."""
    return fits(found, dict) and found.keys() == kinds.keys() and all(
        fits(found[key], kind) for key, kind in kinds.items())


def check_interpolation(interpolation: str, backend: str) -> None:
    """Raise a ValueError if pictures are resized otherwise than is known."""
    for name, value, known in (('interpolation', interpolation, INTERPOLATIONS),
                               ('backend', backend, ('cv2', 'pillow'))):
        if value not in known:
            raise ValueError(f'{name}={value!r} of Resize in the test_pipeline cannot '
                             f'be exported: it must be one of {", ".join(known)}')


def _resize(image: np.ndarray, size: Tuple[int, int], interpolation: str,
            backend: str) -> np.ndarray:
    """Resize as mmcv does."""
    if backend == 'pillow':
        return np.array(
            Image.fromarray(image).resize(
                size[::-1], getattr(Image.Resampling, interpolation.upper())))
    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            f'pictures are resized to {size[0]}x{size[1]} (height x width) as in the '
            f'training, by OpenCV, which could not be imported ({error}): '
            'pip install opencv-python-headless') from error
    code = getattr(cv2, INTERPOLATIONS[interpolation])
    return cv2.resize(image, size[::-1], interpolation=code)


def labels_of(result: Any) -> np.ndarray:
    """Give labels (1, H, W) of torch as an array, int64, shape (H, W)."""
    return torch.as_tensor(result)[0].cpu().numpy()
