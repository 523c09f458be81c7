"""Label maps of other tools, by colours or by numbers, as mmsegmentation reads them."""

import csv
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Dict, List, Tuple, Union

import numpy as np

from .file_tasks import convert_all, read_pixels, require, write_pixels

VOID = 255
# What is saved without loss.
SUFFIXES = ('.png', '.bmp', '.tif', '.tiff')
Values = Tuple[int, ...]


def read_table(path: Union[str, Path]) -> Tuple[List[str], Dict[Values, int]]:
    """Read which values of a label map are which class.

    Every line is ``class,red,green,blue`` or ``class,number``. Classes are numbered
    as they first appear, ``void`` is 255. A class may have several lines.

    Args:
        path (str | Path): A CSV file.

    Returns:
        Tuple[List[str], Dict[Values, int]]: Classes; and labels by colour (RGB) or
        by number, a tuple of one.

    Raises:
        ValueError: If a line has another form, or a value stands twice, or there are
            no classes or more than 255. The error names the line.
    """
    path = Path(path)
    require(path)
    classes: List[str] = []
    labels: Dict[Values, int] = {}
    # Excel's begins with a mark.
    with open(path, newline='', encoding='utf-8-sig') as file:
        for number, row in enumerate(csv.reader(file), 1):
            if not row:
                continue
            name, *parts = (part.strip() for part in row)
            lengths = {len(parts), *map(len, labels)}
            if not name or lengths not in ({1}, {3}) or not all(
                    part.isdecimal() and int(part) <= 255 for part in parts):
                raise ValueError(
                    f'{path}, line {number}: must be class,red,green,blue or '
                    'class,number, all lines alike and with values of 0 to 255, but '
                    f'got {",".join(row)}')
            if name != 'void' and name not in classes:
                classes.append(name)
            values = tuple(map(int, parts))
            if values in labels:
                raise ValueError(
                    f'{path}, line {number}: {",".join(parts)} stands twice')
            labels[values] = VOID if name == 'void' else classes.index(name)
    if not 0 < len(classes) <= VOID:
        raise ValueError(f'{path} must name 1 to 255 classes, but has {len(classes)}')
    return classes, labels


def remap_label_maps(source: Union[str, Path],
                     table: Union[str, Path],
                     out: Union[str, Path],
                     nproc: int = 1) -> List[str]:
    """Convert the label maps of a folder to labels 0 to K - 1, and 255 for void.

    Names and subfolders stay, as ``.png``. Files that are already there are kept, so
    that an interrupted conversion can be continued; every file appears complete or
    not at all.

    Args:
        source (str | Path): Folder of label maps: of colours, or of numbers in one
            channel or as indices of a palette.
        table (str | Path): See :func:`read_table`.
        out (str | Path): Folder to write.
        nproc (int): Number of processes. Defaults to 1.

    Returns:
        List[str]: The classes, in the order of their labels.

    Raises:
        ValueError: If ``source`` holds no label map, two of one name, or one that is
            damaged or has a value that the table does not name. The error names it.
    """
    source, out = Path(source), Path(out)
    classes, labels = read_table(table)
    require(source)
    files = sorted(path for path in source.rglob('*')
                   if path.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(
            f'{source} must hold label maps, {", ".join(SUFFIXES)}, but has none')
    pairs = [(path, (out / path.relative_to(source)).with_suffix('.png'))
             for path in files]
    doubled, count = Counter(target for _, target in pairs).most_common(1)[0]
    if count > 1:
        raise ValueError(f'{count} files of {source} would become {doubled}')
    convert_all(
        partial(_remap, labels, table),
        [pair for pair in pairs if not pair[1].is_file()], nproc)
    return classes


def _remap(labels: Dict[Values, int], table: Union[str, Path],
           pair: Tuple[Path, Path]) -> None:
    path, target = pair
    channels = len(next(iter(labels)))
    if channels == 3:
        pixels = read_pixels(path)[..., ::-1]
    else:
        pixels = read_pixels(path, 'unchanged')
        if pixels.ndim != 2 or pixels.dtype not in (np.uint8, bool):
            raise ValueError(
                f'{path} must have one channel of 8 bits, as {table} has numbers, '
                f'but its shape is {pixels.shape} of {pixels.dtype}')
        pixels = pixels[..., None]
    found, places = np.unique(
        pixels.reshape(-1, channels), axis=0, return_inverse=True)
    values = [tuple(map(int, value)) for value in found]
    unknown = [value for value in values if value not in labels]
    if unknown:
        shown = ', '.join(' '.join(map(str, value)) for value in unknown[:3])
        raise ValueError(
            f'{path} has {len(unknown)} values that {table} does not name, for '
            f'example {shown}: name their class, or void')
    lut = np.array([labels[value] for value in values], np.uint8)
    write_pixels(target, lut[places.reshape(-1)].reshape(pixels.shape[:2]))
