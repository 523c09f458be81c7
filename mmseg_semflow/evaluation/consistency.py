"""Agreement of synthesised images with their masks."""

from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np
import torch
from mmengine.registry import METRICS
from mmseg.evaluation import IoUMetric

from .base import SynthesisMetric
from .judge import SegmentorJudge


@METRICS.register_module()
class MaskConsistency(SynthesisMetric):
    """Segment the samples and compare with their masks (Park et al. 2019).

    ``mask_mIoU`` and ``mask_aAcc`` are mmsegmentation's mIoU and aAcc over
    all samples of all masks, in percent; void pixels do not count, nor do
    classes that are neither in the masks nor found. By default the labels are
    those that the model's own forward flow finds; a segmentor that was
    trained apart is the stricter judge.

    Args:
        segmentor (str, optional): Path of the config of a segmentor of
            mmsegmentation, of the same classes. Defaults to None, the forward
            flow of the model.
        checkpoint (str, optional): Its checkpoint. Defaults to None.
        **kwargs: See :class:`SynthesisMetric`.

    Raises:
        ValueError: If only one of ``segmentor`` and ``checkpoint`` is given,
            there is no such config, or the number of classes is not known or
            not that of the segmentor.
    """

    ignore_index = 255
    figures = ('mask_mIoU', 'mask_aAcc')

    def __init__(self,
                 segmentor: Optional[str] = None,
                 checkpoint: Optional[str] = None,
                 **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.judge: Optional[SegmentorJudge] = None
        self.keys += ('gt_label_map', )
        if segmentor is None and checkpoint is None:
            self.keys += ('sample_label_maps', )
            self.basis = 'labels by the forward flow of the model'
            return
        if segmentor is None or checkpoint is None:
            raise ValueError('segmentor and checkpoint must be given together, '
                             f'but got {segmentor!r} and {checkpoint!r}')
        self.judge = SegmentorJudge(segmentor, checkpoint)
        # What is not on this machine (https://...) mmengine looks for.
        if '://' not in checkpoint and not Path(checkpoint).is_file():
            self.leave_out(f'there is no file {Path(checkpoint).absolute()}; '
                           'name that of the segmentor by checkpoint=')
        self.basis = (f'labels by {Path(segmentor).name} '
                      f'({checkpoint.rpartition("/")[2]})')

    @property
    def num_classes(self) -> int:
        """int: Number of classes of the dataset."""
        classes = (self.dataset_meta or {}).get('classes')
        if not classes:
            raise ValueError("dataset_meta must have 'classes', but got "
                             f'{self.dataset_meta}')
        return len(classes)

    def measure(self, sample: dict) -> dict:
        """Count the pixels of every class on the samples of one mask."""
        if self.judge is None:
            label_maps = sample['sample_label_maps']
        else:
            label_maps = self.judge(sample['samples'], self.num_classes)
        target = sample['gt_label_map'].to(label_maps.device)
        areas = [
            torch.stack(
                IoUMetric.intersect_and_union(label_map, target,
                                              self.num_classes,
                                              self.ignore_index))
            for label_map in label_maps
        ]
        # As float32 a sum beyond 2^24 pixels would be rounded.
        return dict(areas=torch.stack(areas).double().sum(0))

    def summarize(self, measures: List[dict]) -> Dict[str, float]:
        """Compute mIoU and the accuracy of all pixels."""
        figures = IoUMetric.total_area_to_metrics(
            *sum(measure['areas'] for measure in measures))
        return {
            f'mask_{name}': float(np.round(np.nanmean(figures[key]) * 100, 2))
            for name, key in dict(mIoU='IoU', aAcc='aAcc').items()
        }
