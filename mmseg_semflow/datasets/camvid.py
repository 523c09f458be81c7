"""CamVid, the road scenes of Cambridge."""

from functools import cache, partial
from pathlib import Path
from typing import List, Tuple, Union

import cv2
import numpy as np
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from .file_tasks import convert_all, read_pixels, require, write_pixels
from .layout import CheckedLayout


@DATASETS.register_module()
class CamVidDataset(CheckedLayout, BaseSegDataset):
    """CamVid with the 11 classes of Badrinarayanan et al. (TPAMI 2017).

    Images are ``.jpg`` in ``img_dir/{train,val,test}`` and label maps
    ``.png`` in ``ann_dir/{train,val,test}``, with labels 0 to 10 and 255 for
    void. The first part of a file's name is the drive it was taken on: 0001TP (at
    dusk), 0006R0, 0016E5, Seq05VD (in the test set alone). ``filter_cfg`` can choose:
    ``dict(sequences=['0001TP', '0006R0'])``.

    Args:
        **kwargs: Arguments of ``BaseSegDataset``.

    Raises:
        ValueError: If the folder has another layout, ``filter_cfg`` another key, or
            a sequence no image.
    """

    METAINFO = dict(
        classes=('Sky', 'Building', 'Pole', 'Road', 'Pavement', 'Tree',
                 'SignSymbol', 'Fence', 'Car', 'Pedestrian', 'Bicyclist'),
        palette=[[128, 128, 128], [128, 0, 0], [192, 192, 128], [128, 64, 128],
                 [60, 40, 222], [128, 128, 0], [192, 128, 128], [64, 64, 128],
                 [64, 0, 128], [64, 64, 0], [0, 128, 192]])
    guide = 'docs/datasets/camvid.md'

    def filter_data(self) -> List[dict]:
        """List the pairs of the drives that ``filter_cfg`` names."""
        filter_cfg = self.filter_cfg or {}
        if filter_cfg.keys() - {'sequences'}:
            raise ValueError('filter_cfg of CamVidDataset may have sequences, but '
                             f'got {", ".join(map(repr, filter_cfg))}')
        if 'sequences' not in filter_cfg:
            return self.data_list
        sequences = filter_cfg['sequences']
        found = {sequence_of(info['img_path']) for info in self.data_list}
        for sequence in sequences:
            if sequence not in found:
                raise ValueError(
                    f'filter_cfg.sequences must be of {sorted(found)}, which '
                    f'{self.data_prefix["img_path"]} has, but got {sequence!r}')
        return [
            info for info in self.data_list
            if sequence_of(info['img_path']) in sequences
        ]


def sequence_of(path: Union[str, Path]) -> str:
    """Tell the drive that a picture was taken on, the first part of its name."""
    return Path(path).name.split('_')[0]


# The colours (RGB) of the 32 original classes, grouped as for SegNet.
GROUPS = dict(
    Sky=dict(Sky=(128, 128, 128)),
    Building=dict(
        Archway=(192, 0, 128),
        Bridge=(0, 128, 64),
        Building=(128, 0, 0),
        Tunnel=(64, 0, 64),
        Wall=(64, 192, 0)),
    Pole=dict(Column_Pole=(192, 192, 128), TrafficCone=(0, 0, 64)),
    Road=dict(
        LaneMkgsDriv=(128, 0, 192),
        LaneMkgsNonDriv=(192, 0, 64),
        Road=(128, 64, 128)),
    Pavement=dict(
        ParkingBlock=(64, 192, 128),
        RoadShoulder=(128, 128, 192),
        Sidewalk=(0, 0, 192)),
    Tree=dict(Tree=(128, 128, 0), VegetationMisc=(192, 192, 0)),
    SignSymbol=dict(
        Misc_Text=(128, 128, 64),
        SignSymbol=(192, 128, 128),
        TrafficLight=(0, 64, 64)),
    Fence=dict(Fence=(64, 64, 128)),
    Car=dict(
        Car=(64, 0, 128),
        OtherMoving=(128, 64, 64),
        SUVPickupTruck=(64, 128, 192),
        Train=(192, 64, 128),
        Truck_Bus=(192, 128, 192)),
    Pedestrian=dict(
        Animal=(64, 128, 64),
        CartLuggagePram=(64, 0, 192),
        Child=(192, 128, 64),
        Pedestrian=(64, 64, 0)),
    Bicyclist=dict(
        Bicyclist=(0, 128, 192), MotorcycleScooter=(192, 0, 192)))
VOID_COLOR = (0, 0, 0)
VOID, UNKNOWN = 255, 254
SIZE = (480, 360)  # width and height of SegNet's images
STILLS, LABELED = '701_StillsRaw_full', 'LabeledApproved_full'


def convert_camvid(source: Union[str, Path],
                   splits: Union[str, Path],
                   out: Union[str, Path],
                   nproc: int = 1) -> List[str]:
    """Convert the original distribution to what the dataset reads.

    Images and label maps become 480x360, as for SegNet. Files that are
    already there are kept, so that an interrupted conversion can be
    continued; every file appears complete or not at all.

    Args:
        source (str | Path): Folder with ``701_StillsRaw_full/NAME.png`` and
            ``LabeledApproved_full/NAME_L.png``.
        splits (str | Path): Folder with ``train.txt``, ``val.txt`` and
            ``test.txt``: one line per image, its name or path first.
        out (str | Path): Folder to write.
        nproc (int): Number of processes. Defaults to 1.

    Returns:
        List[str]: Warnings: the files with pixels of unknown colours, which
        become void.

    Raises:
        ValueError: If a file is missing or unreadable, or more than 1 % of a
            label image has unknown colours. The error names it.
    """
    source, out = Path(source), Path(out)
    require(source / STILLS, source / LABELED)
    tasks = []
    for split in ('train', 'val', 'test'):
        path = Path(splits, f'{split}.txt')
        require(path)
        tasks += [(split, Path(line.split()[0]).stem)
                  for line in path.read_text().splitlines() if line.strip()]
    tasks = [
        task for task in tasks
        if not all(path.is_file() for path in _targets(out, *task))
    ]
    warnings = convert_all(partial(_convert, source, out), tasks, nproc)
    return [warning for warning in warnings if warning]


def group_colors(pixels: np.ndarray) -> np.ndarray:
    """Map the colours of the 32 original classes to the 11 classes.

    Args:
        pixels (np.ndarray): BGR, uint8, shape (H, W, 3).

    Returns:
        np.ndarray: Labels 0 to 10, 255 (void) or 254 (an unknown colour),
        uint8, shape (H, W).
    """
    return _table()[pixels.astype(np.int64) @ (1, 2**8, 2**16)]


@cache
def _table() -> np.ndarray:
    table = np.full(2**24, UNKNOWN, np.uint8)
    weights = np.array([2**16, 2**8, 1])
    table[VOID_COLOR @ weights] = VOID
    for label, group in enumerate(GROUPS.values()):
        for color in group.values():
            table[color @ weights] = label
    return table


def _targets(out: Path, split: str, name: str) -> List[Path]:
    return [
        out / f'img_dir/{split}/{name}.jpg', out / f'ann_dir/{split}/{name}.png'
    ]


def _convert(source: Path, out: Path, task: Tuple[str, str]) -> str:
    split, name = task
    path = source / LABELED / f'{name}_L.png'
    labels = group_colors(read_pixels(path))
    unknown = (labels == UNKNOWN).mean()
    if unknown > 0.01:
        raise ValueError(
            f'{path} must have the colours of the 32 classes of CamVid, but '
            f'{unknown:.0%} of its pixels have others')
    labels[labels == UNKNOWN] = VOID
    image = read_pixels(source / STILLS / f'{name}.png')
    image = cv2.resize(image, SIZE, interpolation=cv2.INTER_AREA)
    labels = cv2.resize(labels, SIZE, interpolation=cv2.INTER_NEAREST)
    for target, pixels in zip(
            _targets(out, split, name), (image, labels), strict=True):
        write_pixels(target, pixels)
    return f'{path}: {unknown:.3%} of unknown colours are void' if unknown else ''
