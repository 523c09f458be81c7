"""Files without meaning, in place of data that are not there."""

import inspect
import math
import os.path as osp
from pathlib import Path
from typing import Optional

import cv2
import numpy as np
from mmengine.config import Config
from mmseg.registry import DATASETS

from mmseg_semflow.apis.costs import Size, training_size


def find_data(cfg: Config, out: Path, file_size: Optional[Size]) -> str:
    """Find the training data of a config, or write files in their place.

    Args:
        cfg (Config): A config of SemFlow, whose dataset has no wrappers. Where
            its images are missing, the dataset is changed to read what is
            written here, by its own pipeline.
        out (Path): Folder to write to.
        file_size (Tuple[int, int], optional): Height and width of what is
            written. None is twice the config's size.

    Returns:
        str: The folder of the images, or what stands in for them.
    """
    dataset = cfg.train_dataloader.dataset
    folder = osp.join(
        dataset.get('data_root') or '',
        dataset.get('data_prefix', {}).get('img_path', ''))
    if 'generate' in dataset or osp.isdir(folder):
        return folder
    suffix = str(
        dataset.get('img_suffix') or inspect.signature(
            DATASETS.get(dataset.type)).parameters['img_suffix'].default)
    suffix = '.jpg' if suffix.endswith('.jpg') else '.png'
    num_classes = cfg.model.semflow.codec.num_classes
    file_size = file_size or [2 * side for side in training_size(cfg)]
    write_pairs(out / 'files', file_size, num_classes, suffix, 4)
    pipeline = dataset.pipeline
    dataset.clear()
    dataset.update(
        type='BaseSegDataset',
        data_root=str(out / 'files'),
        data_prefix=dict(img_path='img_dir', seg_map_path='ann_dir'),
        img_suffix=suffix,
        seg_map_suffix='.png',
        metainfo=dict(
            classes=[str(i) for i in range(num_classes)],
            palette=[[i, i, i] for i in range(num_classes)]),
        pipeline=pipeline)
    return (f'{suffix} files of {file_size[0]}x{file_size[1]} without '
            f'meaning, since there is no {folder}')


def write_pairs(folder: Path, size: Size, num_classes: int, suffix: str,
                count: int) -> None:
    """Write images and labels without meaning, in mmseg's layout.

    Smooth, with some grain: as a photograph they take 1 to 2 bytes per pixel
    as PNG.

    Args:
        folder (Path): Folder to write to.
        size (Tuple[int, int]): Height and width.
        num_classes (int): Number of classes.
        suffix (str): Of the images, ``'.png'`` or ``'.jpg'``.
        count (int): Number of pairs.
    """
    rng = np.random.default_rng(0)
    width_height = tuple(size)[::-1]
    coarse = [math.ceil(side / 32) for side in size]
    for part in ('img_dir', 'ann_dir'):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        image = cv2.resize(
            rng.uniform(0, 255, (*coarse, 3)),
            width_height,
            interpolation=cv2.INTER_CUBIC)
        grain = rng.normal(0, 2, image.shape)
        cv2.imwrite(
            str(folder / f'img_dir/{i}{suffix}'),
            np.clip(image + grain, 0, 255).astype(np.uint8))
        labels = cv2.resize(
            rng.integers(0, num_classes, coarse, np.uint8),
            width_height,
            interpolation=cv2.INTER_NEAREST)
        labels[:8] = 255
        cv2.imwrite(str(folder / f'ann_dir/{i}.png'), labels)
