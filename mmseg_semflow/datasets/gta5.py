"""GTA5, street scenes of a game with the classes of Cityscapes."""

from pathlib import Path
from typing import Any, Union

import numpy as np
from mmseg.datasets import CityscapesDataset
from mmseg.registry import DATASETS

from .file_tasks import convert_all, read_pixels, require, write_pixels
from .layout import CheckedLayout

# The 19 classes by their IDs in Cityscapes, which GTA5's labels have, too.
CLASS_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
LAST_ID = 34
SUFFIX = '_labelTrainIds.png'


@DATASETS.register_module()
class GTA5Dataset(CheckedLayout, CityscapesDataset):
    """GTA5 (Richter et al., ECCV 2016) with the 19 classes of Cityscapes.

    Images are ``images/NAME.png`` and label maps ``labels/NAME_labelTrainIds.png``,
    the layout of DAFormer, with labels 0 to 18 and 255 for void.

    Args:
        img_suffix (str): Defaults to ``'.png'``.
        seg_map_suffix (str): Defaults to ``'_labelTrainIds.png'``.
        **kwargs: Arguments of ``BaseSegDataset``.

    Raises:
        ValueError: If the folder has another layout.
    """

    guide = 'docs/datasets/gta5.md'

    def __init__(self,
                 img_suffix: str = '.png',
                 seg_map_suffix: str = SUFFIX,
                 **kwargs: Any) -> None:
        super().__init__(img_suffix, seg_map_suffix, **kwargs)


def convert_gta5(root: Union[str, Path], nproc: int = 1) -> int:
    """Write the label maps of GTA5 with the labels of Cityscapes' training.

    Those that are there are kept, so that an interrupted conversion can be
    continued; every file appears complete or not at all.

    Args:
        root (str | Path): Folder with ``images/NAME.png`` and ``labels/NAME.png``,
            whose values are the IDs of Cityscapes.
        nproc (int): Number of processes. Defaults to 1.

    Returns:
        int: Number of label maps.

    Raises:
        ValueError: If a folder is missing or empty, or a file cannot be read or
            holds something else. The error names it.
    """
    labels = Path(root, 'labels')
    require(Path(root, 'images'), labels)
    paths = [p for p in sorted(labels.glob('*.png')) if not p.name.endswith(SUFFIX)]
    if not paths:
        raise ValueError(f'{labels} holds no label maps NAME.png')
    missing = [path for path in paths if not _converted(path).exists()]
    convert_all(_convert, missing, nproc)
    return len(paths)


def _converted(path: Path) -> Path:
    return path.with_name(path.stem + SUFFIX)


def _convert(path: Path) -> None:
    # As they are: the colours of a palette would be made gray.
    ids = read_pixels(path, 'unchanged')
    if ids.ndim != 2 or ids.max() > LAST_ID:
        raise ValueError(
            f'{path} must hold the IDs of Cityscapes, 0 to {LAST_ID}, one a pixel, '
            f'but has the shape {ids.shape} and values up to {ids.max()}')
    table = np.full(256, 255, np.uint8)
    table[list(CLASS_IDS)] = np.arange(len(CLASS_IDS))
    write_pixels(_converted(path), table[ids])
