"""Both directions of a model on some test images, as one picture."""

from typing import Dict, List, Optional, Sequence

import numpy as np
from mmengine.dataset import BaseDataset

from mmseg_semflow.pixels import paint, resize_labels
from mmseg_semflow.synthesis import image_and_labels
from mmseg_semflow.synthesis.gallery import to_gallery

from .inferencer import SemFlowInferencer


def make_gallery(inferencer: SemFlowInferencer,
                 dataset: BaseDataset,
                 indices: Optional[Sequence[int]] = None,
                 num_samples: int = 3,
                 num_steps: Optional[int] = None,
                 seed: int = 0) -> bytes:
    """Show images, their labels, predictions and images synthesised for the labels.

    Args:
        inferencer (SemFlowInferencer): Of RGB images.
        dataset (BaseDataset): With the images and labels.
        indices (Sequence[int], optional): Which of them, one for each column.
            Defaults to None, the first five.
        num_samples (int): Images synthesised for each mask. Defaults to 3.
        num_steps (int, optional): Of the segmentation. Defaults to None, that of
            the config.
        seed (int): Of the synthesis. Defaults to 0.

    Returns:
        bytes: The picture, PNG.

    Raises:
        ValueError: If an index is none of the data set's.
    """
    if indices is None:
        indices = range(min(5, len(dataset)))
    for index in indices:
        if not 0 <= index < len(dataset):
            raise ValueError(f'indices must be in [0, {len(dataset)}), the images of '
                             f'the data set, but got {index}')
    rows: Dict[str, List[np.ndarray]] = dict(image=[], truth=[], prediction=[])
    rows.update({f'truth to image {k + 1}': [] for k in range(num_samples)})
    for index in indices:
        image, labels = image_and_labels(dataset[index])
        labels = resize_labels(labels, image.shape[-2:])
        image = image.permute(1, 2, 0).numpy()
        result = inferencer.segment(image, num_steps, return_datasamples=True)
        pictures = [
            image,
            paint(labels, inferencer.palette).numpy(),
            paint(result.pred_sem_seg.data[0], inferencer.palette).numpy(),
            *inferencer.synthesize(labels.numpy(), num_samples=num_samples, seed=seed)
        ]
        for row, picture in zip(rows.values(), pictures, strict=True):
            row.append(picture)
    legend = dict(zip(inferencer.classes, inferencer.palette, strict=True))
    return to_gallery(rows, legend)
