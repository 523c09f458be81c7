"""Batches of photos and masks for mmagic's translation models."""

from typing import Any, Dict

import torch
from mmagic.registry import MODELS
from torch import Tensor, nn

from mmseg_semflow.flow import PseudoMaskCodec
from mmseg_semflow.models.generators import SemFlowGeneratorDataPreProcessor


@MODELS.register_module()
class MaskTranslationDataPreProcessor(SemFlowGeneratorDataPreProcessor):
    """Images and masks as the domains 'photo' and 'mask'.

    A mask is an image of the classes' colours, for networks that translate
    images, or a one-hot map, of which void is the last channel.

    Args:
        codec (dict): Arguments of :class:`PseudoMaskCodec`: the classes, void
            and the colours, which are not perturbed.
        one_hot (bool): Whether masks are one-hot. Defaults to False.
        **kwargs: Arguments of :class:`SemFlowDataPreProcessor` but for
            ``seg_pad_val``, which is void.
    """

    def __init__(self, codec: dict, one_hot: bool = False, **kwargs) -> None:
        codec = PseudoMaskCodec(**codec)
        super().__init__(seg_pad_val=codec.ignore_index, **kwargs)
        self.codec = codec
        self.one_hot = one_hot

    def forward(self, data: dict, training: bool = False) -> Dict[str, Any]:
        """Normalise, pad and stack a batch.

        Args:
            data (dict): See :class:`SemFlowGeneratorDataPreProcessor`.
            training (bool): Whether the batch is for training. Defaults to
                False.

        Returns:
            Dict[str, Any]: As :class:`SemFlowGeneratorDataPreProcessor`, but
            in training ``inputs`` has ``img_photo``, RGB in [-1, 1], shape
            (B, 3, H, W), and ``img_mask``, see :meth:`encode`.

        Raises:
            ValueError: If a training label is neither a class nor void.
        """
        data = super().forward(data, training)
        if training:
            label_maps = torch.cat(
                [sample.gt_sem_seg.data for sample in data['data_samples']])
            data['inputs'] = dict(
                img_photo=data['inputs'], img_mask=self.encode(label_maps))
        return data

    def encode(self, label_maps: Tensor) -> Tensor:
        """Make of labels what the networks take.

        Args:
            label_maps (Tensor): Labels in [0, num_classes) or
                ``ignore_index``, int64, shape (B, H, W).

        Returns:
            Tensor: Colours in [-1, 1], shape (B, 3, H, W), or zeros and ones,
            shape (B, num_classes + 1, H, W).

        Raises:
            ValueError: If there is any other label.
        """
        if not self.one_hot:
            return self.codec.normalize(self.codec.encode(label_maps))
        return nn.functional.one_hot(
            self.codec.index(label_maps),
            self.codec.num_classes + 1).movedim(-1, 1).float()
