"""Pictures of what a segmentor is unsure of."""

from pathlib import Path
from typing import Any, Optional

import cv2
import numpy as np
from mmengine.dist import master_only
from mmseg.registry import VISUALIZERS
from mmseg.structures import SegDataSample
from mmseg.visualization import SegLocalVisualizer

from mmseg_semflow.synthesis.pictures import entropy_picture


@VISUALIZERS.register_module()
class EntropyVisualizer(SegLocalVisualizer):
    """mmsegmentation's visualizer, and a second picture of the entropy.

    Wherever that draws a prediction with ``seg_logits``, this also draws, under the
    same name with ``_entropy``, the entropy of their softmax: dark where the segmentor
    is sure of one class, bright where all are equally likely
    (:func:`mmseg_semflow.pixels.entropy_map`).

    Args:
        **kwargs: See :class:`mmseg.visualization.SegLocalVisualizer`.
    """

    @master_only
    def add_datasample(self,
                       name: str,
                       image: np.ndarray,
                       data_sample: Optional[SegDataSample] = None,
                       draw_gt: bool = True,
                       draw_pred: bool = True,
                       show: bool = False,
                       wait_time: float = 0,
                       out_file: Optional[str] = None,
                       step: int = 0,
                       **kwargs: Any) -> None:
        """Draw a result, see :meth:`SegLocalVisualizer.add_datasample`."""
        super().add_datasample(name, image, data_sample, draw_gt, draw_pred, show,
                               wait_time, out_file, step, **kwargs)
        if not draw_pred or data_sample is None or 'seg_logits' not in data_sample:
            return
        picture = entropy_picture(data_sample.seg_logits.data)
        if show:
            self.show(picture, win_name=f'{name}_entropy', wait_time=wait_time)
        if out_file is not None:
            path = Path(out_file)
            cv2.imwrite(str(path.with_name(f'{path.stem}_entropy{path.suffix}')),
                        picture[..., ::-1])
        else:
            self.add_image(f'{name}_entropy', picture, step)
