"""Reading of masks from files, and writing of pictures to files."""

import io
import json
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Iterator, List, Optional, Sequence, Tuple, Union

import cv2
import numpy as np
import torch
from PIL import ExifTags, Image, PngImagePlugin
from torch import Tensor

from mmseg_semflow.files import write_bytes
from mmseg_semflow.flow import PseudoMaskCodec
from mmseg_semflow.pixels import check_palette, entropy_map

NOTE = 'mmseg_semflow'
# What makes a picture upright, by EXIF's orientation.
TURNS = dict(enumerate((
    Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180,
    Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90), 2))
MASK_SUFFIXES = ('.png', '.bmp', '.tif', '.tiff')
PICTURE_SUFFIXES = (*MASK_SUFFIXES, '.jpg', '.jpeg', '.webp')
Palette = Sequence[Sequence[int]]


def list_masks(path: Union[str, Path],
               out: Union[str, Path, None] = None) -> List[Path]:
    """List the masks of a folder and its subfolders, or the one file.

    Args:
        path (str | Path): A folder or a file.
        out (str | Path, optional): A folder whose files are left out.
            Defaults to None.

    Returns:
        List[Path]: Sorted files.

    Raises:
        FileNotFoundError: If there is nothing at the path.
        ValueError: If the folder holds no mask.
    """
    return _list(path, 'masks', MASK_SUFFIXES, out)


def list_pictures(path: Union[str, Path]) -> List[Path]:
    """List the pictures of a folder and its subfolders, or the one file.

    Args:
        path (str | Path): A folder or a file.

    Returns:
        List[Path]: Sorted files.

    Raises:
        FileNotFoundError: If there is nothing at the path.
        ValueError: If the folder holds no picture.
    """
    return _list(path, 'pictures', PICTURE_SUFFIXES)


def _list(path: Union[str, Path],
          what: str,
          suffixes: Sequence[str],
          out: Union[str, Path, None] = None) -> List[Path]:
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f'{what} {path}: there is no such file or folder')
    files = sorted(
        file for file in path.rglob('*')
        if file.suffix.lower() in suffixes and file.is_file()
        and (out is None or Path(out).resolve() not in file.resolve().parents))
    if not files:
        raise ValueError(
            f'the folder {path} holds no {what} ({", ".join(suffixes)})')
    return files


def read_label_map(mask: Union[str, Path, np.ndarray],
                   codec: PseudoMaskCodec,
                   palette: Optional[Palette] = None,
                   reduce_zero_label: bool = False) -> Tensor:
    """Read labels from a file or an array.

    Args:
        mask (str | Path | np.ndarray): A label map, (H, W), gray or with a
            colour table; or, with ``palette``, a coloured one, RGB,
            (H, W, 3), or with a colour table.
        codec (PseudoMaskCodec): Knows the number of classes and void.
        palette (Sequence[Sequence[int]], optional): RGB colour of each class.
            Black, if no class has it, is void. Defaults to None.
        reduce_zero_label (bool): Whether the label 0 of label maps is void
            and class c has the label c + 1. Defaults to False.

    Returns:
        Tensor: Labels in [0, num_classes) or ``ignore_index``, int64, shape
        (H, W).

    Raises:
        ValueError: If it cannot be read, is coloured without a palette, is
            none in spite of one, or has an unknown label or colour. The file is named.
    """
    name, pixels = 'the mask', mask
    if not isinstance(mask, np.ndarray):
        name, pixels = str(mask), _read(mask, palette is not None)
    if not np.issubdtype(pixels.dtype, np.integer):
        raise ValueError(f'{name} must hold whole numbers, but got '
                         f'{pixels.dtype}')
    if pixels.ndim == 2 and palette is not None:
        raise ValueError(
            f'{name} is a label map, of one channel, but a palette is for '
            'coloured masks: leave it out (--palette)')
    if pixels.ndim == 2:
        labels = found = pixels.astype(np.int64)
        if reduce_zero_label:
            # As mmsegmentation does: void stays void.
            void = (found == 0) | (found == codec.ignore_index)
            labels = np.where(void, codec.ignore_index, found - 1)
    elif pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f'{name} must have the shape (H, W), or (H, W, 3) if '
                         f'it is coloured, but got {pixels.shape}')
    elif palette is None:
        raise ValueError(
            f'{name} is a coloured picture of shape {pixels.shape}, but label '
            'maps have one channel: give a palette to map its colours to '
            'labels')
    else:
        labels = found = _labels_of(pixels, palette, codec.ignore_index, name)
    valid = (labels >= 0) & (labels < codec.num_classes)
    wrong = np.unique(found[~valid & (labels != codec.ignore_index)])
    if len(wrong):
        rule = (f'in [0, {codec.num_classes}], with reduce_zero_label,'
                if reduce_zero_label else
                f'below num_classes={codec.num_classes}')
        raise ValueError(
            f'{name} has the labels {wrong.tolist()}: labels must be {rule} or '
            f'{codec.ignore_index} (void)')
    return torch.from_numpy(labels)


def rgb_of(picture: Image.Image) -> np.ndarray:
    """Give a picture of Pillow as RGB, uint8, (H, W, 3), turned as its EXIF says.

    EXIF that cannot be read turns nothing; ``ImageOps.exif_transpose`` would write all
    of it anew.
    """
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # of whatever kind the parser raises
        orientation = None
    pixels = picture.convert('RGB')
    turn = TURNS.get(orientation) if isinstance(orientation, int) else None
    return np.array(pixels if turn is None else pixels.transpose(turn))


def read_rgb(path: Union[str, Path]) -> np.ndarray:
    """Read any picture as RGB, uint8, shape (H, W, 3), turned as its EXIF says.

    Raises:
        ValueError: If it cannot be read. The file is named.
    """
    with _opened(path) as picture:
        return rgb_of(picture)


def picture_size(path: Union[str, Path, BinaryIO]) -> Tuple[int, int]:
    """Tell height and width by the head of a picture, before all of it is read.

    Raises:
        ValueError: If it is none, or of more pixels than Pillow takes, 179
            million. The file is named.
    """
    with _opened(path) as picture:
        return picture.height, picture.width


def has_colours(path: Union[str, Path]) -> bool:
    """Tell whether a picture has colours, or a table of them.

    Raises:
        ValueError: If it cannot be read. The file is named.
    """
    with _opened(path) as picture:
        return Image.getmodebase(picture.mode) != 'L'


def _read(path: Union[str, Path], coloured: bool) -> np.ndarray:
    """Read gray levels or indices (H, W), or colours (H, W, 3)."""
    with _opened(path) as picture:
        if picture.mode in ('LA', 'La'):
            picture = picture.convert('L')
        elif picture.mode not in ('1', 'L', 'P', 'I', 'F') and \
                not picture.mode.startswith('I;') or (
                    picture.mode == 'P' and coloured):
            picture = picture.convert('RGB')
        pixels = np.array(picture)
    return pixels.astype(np.int64) if pixels.dtype == bool else pixels


@contextmanager
def _opened(path: Union[str, Path]) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as picture:
            yield picture
    except FileNotFoundError:
        raise
    # Pillow's readers raise what their bytes lead to.
    except Exception as error:
        raise ValueError(f'{path} cannot be read as a picture: {error}') from error


def _labels_of(pixels: np.ndarray, palette: Palette, void: int,
               name: str) -> np.ndarray:
    check_palette(palette, f'the palette of {name}')
    weights = np.array([65536, 256, 1])
    table = {0: void}
    table.update(
        (int(np.dot(colour, weights)), label)
        for label, colour in enumerate(palette))
    colours, index = np.unique(
        pixels.astype(np.int64) @ weights, return_inverse=True)
    wrong = [c for c in colours.tolist() if c not in table]
    if wrong:
        shown = [(c >> 16, c >> 8 & 255, c & 255) for c in wrong[:3]]
        raise ValueError(
            f'{name} has {len(wrong)} colours that are not in the palette, '
            f'for example {shown}')
    labels = np.array([table[c] for c in colours.tolist()], np.int64)
    return labels[index].reshape(pixels.shape[:2])


def write_picture(path: Union[str, Path],
                  picture: np.ndarray,
                  note: str = '') -> None:
    """Write a picture as PNG, completely or not at all.

    Args:
        path (str | Path): The file.
        picture (np.ndarray): RGB, uint8, shape (H, W, 3).
        note (str): Text to keep in the file, see :func:`read_note`. Defaults
            to '', none.
    """
    text = PngImagePlugin.PngInfo()
    if note:
        text.add_text(NOTE, note)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, 'png', pnginfo=text)
    write_bytes(path, buffer.getvalue())


def read_note(path: Union[str, Path]) -> str:
    """Read the text of :func:`write_picture`; '' if there is none."""
    try:
        with _opened(path) as picture:
            return picture.info.get(NOTE, '')
    except (ValueError, FileNotFoundError):
        return ''


def read_record(path: Union[str, Path]) -> dict:
    """Read the JSON object that the text holds; an empty one if it holds none."""
    try:
        record = json.loads(read_note(path))
    except (ValueError, TypeError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def entropy_picture(logits: Tensor) -> np.ndarray:
    """Colour the entropy of the softmax of logits, from dark, 0, to bright, 1.

    Args:
        logits (Tensor): See :func:`mmseg_semflow.pixels.entropy_map`.

    Returns:
        np.ndarray: RGB, uint8, shape (H, W, 3).
    """
    grey = (255 * entropy_map(logits)).round().byte().cpu().numpy()
    return np.ascontiguousarray(
        cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO)[..., ::-1])
