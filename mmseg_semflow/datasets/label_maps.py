"""The label maps of a dataset, and how often every class occurs in them."""

from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Optional, Sequence, Union

import numpy as np
from mmengine.dataset import ConcatDataset
from mmengine.utils import track_iter_progress
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS, TRANSFORMS

from .unreadable import UnreadableImageError, naming_damaged_files


class LabelMaps:
    """The label maps of a dataset of mmsegmentation, read when asked for.

    Args:
        dataset (dict | BaseSegDataset | ConcatDataset): The dataset, or its
            config; of its pipeline nothing is used.
        num_classes (int): Number of classes K.
        ignore_index (int): The label of void. Defaults to 255.

    Raises:
        ValueError: If it is none of these, or holds nothing.
    """

    def __init__(self,
                 dataset: Union[dict, BaseSegDataset, ConcatDataset],
                 num_classes: int,
                 ignore_index: int = 255) -> None:
        if isinstance(dataset, dict):
            dataset = DATASETS.build(dataset)
        if not isinstance(dataset, (BaseSegDataset, ConcatDataset)):
            raise ValueError('label maps can be taken from a dataset of '
                             'mmsegmentation, a BaseSegDataset, or several that are '
                             f'concatenated, but got {type(dataset).__name__}')
        if not len(dataset):
            raise ValueError(f'{type(dataset).__name__} holds no label maps')
        self.dataset = dataset
        self._load = TRANSFORMS.build(dict(type='mmseg.LoadAnnotations'))
        self.num_classes = num_classes
        self.ignore_index = ignore_index

    def __len__(self) -> int:
        return len(self.dataset)

    def path(self, index: int) -> Path:
        """Tell the file of a label map."""
        return Path(self.dataset.get_data_info(index)['seg_map_path'])

    def image_path(self, index: int) -> Path:
        """Tell the file of the image that a label map belongs to."""
        return Path(self.dataset.get_data_info(index)['img_path'])

    def __getitem__(self, index: int) -> np.ndarray:
        """Read a label map.

        Args:
            index (int): Which.

        Returns:
            np.ndarray: Labels in [0, K) or ``ignore_index``, uint8, shape
            (H, W).

        Raises:
            ValueError: If it has any other label. The file is named.
            UnreadableImageError: If it is damaged.
        """
        with naming_damaged_files():
            loaded = self._load(self.dataset.get_data_info(index))
        label_map = loaded['gt_seg_map'].astype(np.uint8)
        wrong = np.unique(label_map[(label_map >= self.num_classes)
                                    & (label_map != self.ignore_index)])
        if len(wrong):
            raise ValueError(
                f'{self.path(index)} has the labels {wrong.tolist()}: they must be '
                f'below {self.num_classes}, or {self.ignore_index} (void)')
        return label_map

    def first_readable(self) -> np.ndarray:
        """Read the first map that is not damaged, shape (H, W)."""
        for index in range(len(self) - 1):
            with suppress(UnreadableImageError):
                return self[index]
        return self[len(self) - 1]

    @cached_property
    def counts(self) -> np.ndarray:
        """np.ndarray: Pixels of every class in every map, int64, shape (N, K).

        Damaged maps have none.
        """
        print('counting the pixels of every class', flush=True)
        counts = np.zeros((len(self), self.num_classes), np.int64)
        for index in track_iter_progress(range(len(self))):
            with suppress(UnreadableImageError):
                counts[index] = class_pixels(self[index], self.num_classes)
        print(flush=True)
        return counts

    def check_held(self, labels: Optional[Sequence[int]],
                   classes: Sequence[str]) -> None:
        """Check that some map holds each of some classes.

        Args:
            labels (Sequence[int], optional): Labels of these classes; None for none.
            classes (Sequence[str]): Names of all classes.

        Raises:
            ValueError: If no map holds one. Class, dataset and folder are named.
        """
        for label in labels or ():
            if not self.counts[:, label].any():
                raise ValueError(
                    f'none of {len(self)} masks of {type(self.dataset).__name__} in '
                    f'{self.path(0).parent} holds the class {classes[label]!r} (label '
                    f'{label}): choose others (classes, or --classes)')


def class_pixels(label_map: np.ndarray, num_classes: int) -> np.ndarray:
    """Count the pixels of every class in a map (H, W): int64, shape (K, )."""
    return np.bincount(label_map.ravel(), minlength=256)[:num_classes]
