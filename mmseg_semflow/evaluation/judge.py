"""A segmentor that labels pictures it had no part in."""

from pathlib import Path
from typing import Optional

import torch
from mmengine.registry import MODELS, DefaultScope
from mmseg.apis import inference_model, init_model
from torch import Tensor, nn

from mmseg_semflow.arguments import checked


@MODELS.register_module()
@checked
class SegmentorJudge:
    """Label pictures by a segmentor of mmsegmentation that was trained apart.

    It is read by the first call, takes no random numbers, and is no part of the state
    of what uses it.

    Args:
        segmentor (str): Path of its config.
        checkpoint (str): Its checkpoint.

    Raises:
        ValueError: If there is no such config.
    """

    def __init__(self, segmentor: str, checkpoint: str) -> None:
        if not Path(segmentor).is_file():
            raise ValueError(
                f'segmentor must be the path of a config, but got {segmentor!r}')
        self.segmentor = segmentor
        self.checkpoint = checkpoint
        self.network: Optional[nn.Module] = None

    def __call__(self, pixels: Tensor, num_classes: int) -> Tensor:
        """Label pictures, each by the test pipeline of the segmentor.

        Args:
            pixels (Tensor): RGB, uint8, shape (B, 3, H, W).
            num_classes (int): How many classes it must have.

        Returns:
            Tensor: Labels, int64, shape (B, H, W), on the device of the pixels.

        Raises:
            ValueError: If it has another number of classes.
        """
        # Its parts are looked for in the default scope, which may be mmagic's,
        # and init_model changes that for good.
        with DefaultScope.overwrite_default_scope('mmseg'):
            if self.network is None:
                with torch.random.fork_rng(devices=[]):
                    self.network = init_model(
                        self.segmentor, self.checkpoint, str(pixels.device))
            found = len(self.network.dataset_meta['classes'])
            if found != num_classes:
                raise ValueError(
                    f'segmentor {self.segmentor} must have as many classes as the '
                    f'dataset, {num_classes}, but has {found}')
            # BGR, as mmsegmentation reads its files.
            images = pixels.flip(1).permute(0, 2, 3, 1).contiguous().cpu().numpy()
            return torch.cat([
                inference_model(self.network, image).pred_sem_seg.data
                for image in images
            ])
