"""Synthesis of images for a folder of masks, resumable."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, Iterator, Optional, Union

import numpy as np
from mmengine.utils import track_iter_progress
from torch import Tensor

from .batches import batches_of_one_size
from .pictures import list_masks, read_record, write_picture
from .synthesizer import Synthesizer


@dataclass
class _Picture:
    """A picture that is to be there, and what it depends on."""

    path: Path
    note: dict
    label_map: Tensor
    number: int


def synthesize_folder(synthesizer: Synthesizer,
                      read: Callable[[Path], Tensor],
                      masks: Union[str, Path],
                      out: Union[str, Path],
                      overwrite: bool = False,
                      origin: Optional[dict] = None) -> Dict[str, str]:
    """Write all samples of all masks as ``<out>/<mask>_<number>.png``.

    Every picture holds the settings, ``origin`` and a digest of its mask as a
    text. One that exists and was made for the same is left alone, so that an
    interrupted call continues where it stopped; another one is refused.

    With a ``batch_size`` above 1, images of one size share a batch, of one
    mask or of several. Which ones do follows from the masks: what an
    interrupted call left of a batch is synthesised among the same images
    again, and becomes the same picture.

    Args:
        synthesizer (Synthesizer): Makes the images.
        read (Callable): Reads the labels, int64 of shape (H, W), from a file;
            raises a ValueError or OSError where it cannot.
        masks (str | Path): A folder, read with its subfolders but without
            ``out``, or a file.
        out (str | Path): Folder to write to.
        overwrite (bool): Whether to replace pictures that were made for
            something else. Defaults to False.
        origin (dict, optional): What else the pictures depend on, such as the
            weights. Defaults to None.

    Returns:
        Dict[str, str]: The masks that could not be read, with the reason; all
        others are done.

    Raises:
        FileNotFoundError: If there are no such masks.
        ValueError: If the folder is empty, two masks would write one
            picture, or a picture was made for something else.
        OSError: If a picture cannot be written.
    """
    root, out = Path(masks), Path(out)
    stems: Dict[Path, Path] = {}
    for file in list_masks(root, out):
        stem = (file.relative_to(root) if root.is_dir() else Path(file.name))
        other = stems.setdefault(stem.with_suffix(''), file)
        if other is not file:
            raise ValueError(f'the masks {other} and {file} would both write '
                             f'{out / stem.with_suffix("")}_0.png')
    # As they are read back, tuples as lists.
    settings = json.loads(json.dumps({**(origin or {}), **synthesizer.settings}))
    failed: Dict[str, str] = {}

    def pictures() -> Iterator[_Picture]:
        for stem, file in track_iter_progress(list(stems.items())):
            try:
                label_map = read(file)
            except (ValueError, OSError) as error:
                failed[str(file)] = str(error)
                continue
            digest = hashlib.sha256(label_map.numpy().tobytes()).hexdigest()[:16]
            note = dict(settings, mask=f'{tuple(label_map.shape)} {digest}')
            for number in range(synthesizer.num_samples):
                yield _Picture(out / stem.parent / f'{stem.name}_{number}.png',
                               note, label_map, number)

    for batch in batches_of_one_size(
            pictures(),
            lambda picture: synthesizer.size_of(picture.label_map),
            synthesizer.batch_size):
        missing = [not _is_done(picture, overwrite) for picture in batch]
        if not any(missing):
            continue
        images = synthesizer.synthesize([
            (picture.label_map, picture.number) for picture in batch])
        for picture, image, wanted in zip(batch, images, missing, strict=True):
            if wanted:
                write_picture(
                    picture.path,
                    np.ascontiguousarray(image.permute(1, 2, 0).cpu()),
                    json.dumps(picture.note))
    return failed


def _is_done(picture: _Picture, overwrite: bool) -> bool:
    path, note = picture.path, picture.note
    if not path.exists():
        return False
    found = read_record(path)
    if found == note:
        return True
    if overwrite:
        return False
    if not found:
        raise ValueError(f'{path} is there and was not made by this tool: '
                         'choose another folder or overwrite it (--overwrite)')
    key = next(
        key for key in {**note, **found} if found.get(key) != note.get(key))
    raise ValueError(
        f'{path} is there and was made for something else: {key} was '
        f'{found.get(key)!r} and is {note.get(key)!r} now. Choose another '
        'folder or overwrite it (--overwrite)')
