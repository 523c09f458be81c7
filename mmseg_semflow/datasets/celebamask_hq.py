"""CelebAMask-HQ, faces with one class per part."""

from functools import partial
from pathlib import Path
from typing import Dict, List, Union

import mmcv
import numpy as np
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from mmseg_semflow.files import write_bytes

from .file_tasks import convert_all, read_pixels, require, write_pixels
from .layout import CheckedLayout


@DATASETS.register_module()
class CelebAMaskHQDataset(CheckedLayout, BaseSegDataset):
    """CelebAMask-HQ (Lee et al., CVPR 2020) with its 19 classes.

    Images are ``img_dir/N.jpg`` and label maps ``ann_dir/N.png``, as
    :func:`convert_celebamask_hq` writes them; ``ann_file`` lists the N of a
    split. Every pixel has a class; there is no void. Eyes, brows and ears are
    left or right: a flip must swap them, see ``swap_seg_labels`` of
    mmsegmentation's ``RandomFlip``.

    Args:
        **kwargs: Arguments of ``BaseSegDataset``.

    Raises:
        ValueError: If the folder has another layout.
    """

    METAINFO = dict(
        classes=('background', 'skin', 'nose', 'eye_g', 'l_eye', 'r_eye',
                 'l_brow', 'r_brow', 'l_ear', 'r_ear', 'mouth', 'u_lip',
                 'l_lip', 'hair', 'hat', 'ear_r', 'neck_l', 'neck', 'cloth'),
        palette=[[0, 0, 0], [204, 0, 0], [76, 153, 0], [204, 204, 0],
                 [51, 51, 255], [204, 0, 204], [0, 255, 255],
                 [255, 204, 204], [102, 51, 0], [255, 0, 0], [102, 204, 0],
                 [255, 255, 0], [0, 0, 153], [0, 0, 204], [255, 51, 153],
                 [0, 204, 204], [0, 51, 0], [255, 153, 51], [0, 204, 0]])
    guide = 'docs/datasets/celebamask_hq.md'


# Index in CelebA of the first image of its validation and of its test set.
FIRST_VAL, FIRST_TEST = 162771, 182638
MAPPING = 'CelebA-HQ-to-CelebA-mapping.txt'


def convert_celebamask_hq(source: Union[str, Path],
                          out: Union[str, Path],
                          nproc: int = 1) -> None:
    """Convert the original distribution to what the dataset reads.

    Where masks of parts overlap, the class with the larger index wins: parts
    are painted in the order of the classes. Images are reduced to the size of
    the masks, 512x512, as the recipes resize (Pillow, bicubic). The splits
    are those of CelebA, as ``CelebA-HQ-to-CelebA-mapping.txt`` tells them.

    Files that are already there are kept, so that an interrupted conversion
    can be continued; every file appears complete or not at all, the lists of
    the splits last.

    Args:
        source (str | Path): Folder with ``CelebA-HQ-img``,
            ``CelebAMask-HQ-mask-anno`` and ``CelebA-HQ-to-CelebA-mapping.txt``.
        out (str | Path): Folder to write.
        nproc (int): Number of processes. Defaults to 1.

    Raises:
        ValueError: If a file is missing, unreadable or unlike the others. The
            error names it.
    """
    source, out = Path(source), Path(out)
    require(source / MAPPING, source / 'CelebA-HQ-img',
            source / 'CelebAMask-HQ-mask-anno')
    splits = read_splits(source / MAPPING)
    missing = [
        index for indices in splits.values() for index in indices
        if not all(path.is_file() for path in _targets(out, index))
    ]
    convert_all(partial(_convert, source, out), missing, nproc)
    for split, indices in splits.items():
        lines = ''.join(f'{index}\n' for index in indices)
        write_bytes(out / f'{split}.txt', lines.encode())


def read_splits(path: Path) -> Dict[str, List[int]]:
    """Assign the images to the splits of CelebA.

    Args:
        path (Path): ``CelebA-HQ-to-CelebA-mapping.txt``: a header, then lines
            of the index, the index in CelebA and the file in CelebA.

    Returns:
        Dict[str, List[int]]: Indices of ``train``, ``val`` and ``test``.

    Raises:
        ValueError: If a line has another form.
    """
    splits = dict(train=[], val=[], test=[])
    for number, line in enumerate(path.read_text().splitlines()[1:], 2):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 3 or not all(f.isdigit() for f in fields[:2]):
            raise ValueError(
                f'{path}, line {number} must be an index, the index in CelebA '
                f'and a file name, but got {line!r}')
        index, original = int(fields[0]), int(fields[1])
        split = ('train' if original < FIRST_VAL else
                 'val' if original < FIRST_TEST else 'test')
        splits[split].append(index)
    return splits


def merge_parts(folder: Path, index: int) -> np.ndarray:
    """Merge the masks of the parts of one face.

    Args:
        folder (Path): ``CelebAMask-HQ-mask-anno``.
        index (int): Index of the image.

    Returns:
        np.ndarray: Labels, uint8, shape (H, W).

    Raises:
        ValueError: If there is no mask, or one is unreadable or of another
            size.
    """
    labels = None
    stem = folder / str(index // 2000) / f'{index:05d}'
    for label, part in enumerate(CelebAMaskHQDataset.METAINFO['classes']):
        path = Path(f'{stem}_{part}.png')
        if label == 0 or not path.is_file():
            continue
        mask = read_pixels(path, 'grayscale')
        if labels is None:
            labels = np.zeros(mask.shape, np.uint8)
        if mask.shape != labels.shape:
            raise ValueError(
                f'{path} must have the size of the other masks of this image, '
                f'{labels.shape}, but got {mask.shape}')
        labels[mask > 0] = label
    if labels is None:
        raise ValueError(f'image {index} needs masks, but there is no {stem}_*.png')
    return labels


def _targets(out: Path, index: int) -> List[Path]:
    return [out / f'img_dir/{index}.jpg', out / f'ann_dir/{index}.png']


def _convert(source: Path, out: Path, index: int) -> None:
    labels = merge_parts(source / 'CelebAMask-HQ-mask-anno', index)
    image = read_pixels(source / f'CelebA-HQ-img/{index}.jpg')
    image = mmcv.imresize(
        image, labels.shape[::-1], interpolation='bicubic', backend='pillow')
    for path, pixels in zip(
            _targets(out, index), (image, labels), strict=True):
        write_pixels(path, pixels)
