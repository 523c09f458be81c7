"""Synthesis of images for a folder of masks, resumable."""

import hashlib
import json
from pathlib import Path
from typing import Callable, Dict, Optional, Union

import numpy as np
from mmengine.utils import track_iter_progress
from torch import Tensor

from .pictures import list_masks, read_note, write_picture
from .synthesizer import Synthesizer


def synthesize_folder(synthesizer: Synthesizer,
                      read: Callable[[Path], Tensor],
                      masks: Union[str, Path],
                      out: Union[str, Path],
                      overwrite: bool = False,
                      origin: Optional[dict] = None) -> Dict[str, str]:
    """Write all samples of all masks as ``<out>/<mask>_<number>.png``.

    Every picture holds the settings, ``origin`` and a digest of its mask as a
    text. One that exists and was drawn for the same is left alone, so that
    an interrupted call continues where it stopped; another one is refused.

    Args:
        synthesizer (Synthesizer): Draws the images.
        read (Callable): Reads the labels, int64 of shape (H, W), from a file;
            raises a ValueError or OSError where it cannot.
        masks (str | Path): A folder, read with its subfolders but without
            ``out``, or a file.
        out (str | Path): Folder to write to.
        overwrite (bool): Whether to replace pictures that were drawn for
            something else. Defaults to False.
        origin (dict, optional): What else the pictures depend on, such as the
            weights. Defaults to None.

    Returns:
        Dict[str, str]: The masks that could not be read, with the reason; all
        others are done.

    Raises:
        FileNotFoundError: If there are no such masks.
        ValueError: If the folder is empty, two masks would write one
            picture, or a picture was drawn for something else.
        OSError: If a picture cannot be written.
    """
    root, out = Path(masks), Path(out)
    files = list_masks(root, out)
    stems = {}
    for file in files:
        stem = (file.relative_to(root) if root.is_dir() else Path(file.name))
        other = stems.setdefault(stem.with_suffix(''), file)
        if other is not file:
            raise ValueError(f'the masks {other} and {file} would both write '
                             f'{out / stem.with_suffix("")}_0.png')
    settings = {**(origin or {}), **synthesizer.settings}
    failed = {}
    for stem, file in track_iter_progress(list(stems.items())):
        try:
            label_map = read(file)
        except (ValueError, OSError) as error:
            failed[str(file)] = str(error)
            continue
        digest = hashlib.sha256(label_map.numpy().tobytes()).hexdigest()[:16]
        note = dict(settings, mask=f'{tuple(label_map.shape)} {digest}')
        for number in range(synthesizer.num_samples):
            picture = out / stem.parent / f'{stem.name}_{number}.png'
            if _is_done(picture, note, overwrite):
                continue
            image = synthesizer.draw(label_map, number)
            write_picture(
                picture, np.ascontiguousarray(image.permute(1, 2, 0).cpu()),
                json.dumps(note))
    return failed


def _is_done(picture: Path, note: dict, overwrite: bool) -> bool:
    if not picture.exists():
        return False
    found = read_note(picture)
    if found == json.dumps(note):
        return True
    if overwrite:
        return False
    if not found:
        raise ValueError(f'{picture} is there and was not drawn by this tool: '
                         'choose another folder or overwrite it (--overwrite)')
    found = json.loads(found)
    key = next(key for key in note if found.get(key) != note[key])
    raise ValueError(
        f'{picture} is there and was drawn for something else: {key} was '
        f'{found.get(key)!r} and is {note[key]!r} now. Choose another folder '
        'or overwrite it (--overwrite)')
