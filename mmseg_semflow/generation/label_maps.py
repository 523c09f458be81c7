"""The label maps of a dataset, and how often every class occurs in them."""

from functools import cached_property
from pathlib import Path

import numpy as np
from mmengine.registry import DATASETS
from mmengine.utils import track_iter_progress
from mmseg.datasets import BaseSegDataset


class LabelMaps:
    """The label maps of a dataset of mmsegmentation, read when asked for.

    Args:
        dataset (dict): Config of the dataset; of its pipeline nothing is used.
        num_classes (int): Number of classes K.
        ignore_index (int): The label of void. Defaults to 255.

    Raises:
        ValueError: If it is not a ``BaseSegDataset``, or holds nothing.
    """

    def __init__(self,
                 dataset: dict,
                 num_classes: int,
                 ignore_index: int = 255) -> None:
        self.dataset = DATASETS.build(
            dict(dataset, pipeline=[dict(type='mmseg.LoadAnnotations')]))
        if not isinstance(self.dataset, BaseSegDataset):
            raise ValueError('masks can be taken from a dataset of mmsegmentation, '
                             f'a BaseSegDataset, but got {dataset.get("type")}')
        if not len(self.dataset):
            raise ValueError(f'{dataset.get("type")} holds no label maps in '
                             f'{dataset.get("data_root")}')
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
        """
        label_map = self.dataset[index]['gt_seg_map'].astype(np.uint8)
        wrong = np.unique(label_map[(label_map >= self.num_classes)
                                    & (label_map != self.ignore_index)])
        if len(wrong):
            raise ValueError(
                f'{self.path(index)} has the labels {wrong.tolist()}: those of '
                f'the generator are below {self.num_classes}, or '
                f'{self.ignore_index} (void)')
        return label_map

    @cached_property
    def counts(self) -> np.ndarray:
        """np.ndarray: Pixels of every class in every map, int64, shape (N, K)."""
        print('counting the pixels of every class', flush=True)
        counts = np.stack([
            class_pixels(self[index], self.num_classes)
            for index in track_iter_progress(range(len(self)))
        ])
        print(flush=True)
        return counts


def class_pixels(label_map: np.ndarray, num_classes: int) -> np.ndarray:
    """Count the pixels of every class in a map (H, W): int64, shape (K, )."""
    return np.bincount(label_map.ravel(), minlength=256)[:num_classes]
