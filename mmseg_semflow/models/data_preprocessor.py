"""Batches of images and pseudo masks for the segmentor."""

from typing import Any, Dict, Optional, Sequence, Tuple

import torch
from mmengine.structures import BaseDataElement, PixelData
from mmseg.models import SegDataPreProcessor
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from mmseg_semflow.flow import PseudoMaskCodec, check_labels


def pin(data: Any) -> Any:
    """Copy a batch of a data loader to pinned memory.

    ``pin_memory`` of torch's loader passes over data samples.

    Args:
        data (Any): Tensors and data samples, in dicts and lists.

    Returns:
        Any: The same, its tensors pinned.
    """
    if isinstance(data, torch.Tensor):
        return data.pin_memory()
    if isinstance(data, BaseDataElement):
        return data.new(**{key: pin(value) for key, value in data.items()})
    if isinstance(data, dict):
        return {key: pin(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [pin(value) for value in data]
    return data


@MODELS.register_module()
class SemFlowDataPreProcessor(SegDataPreProcessor):
    """mmseg's data preprocessor: RGB, in [-1, 1], with labels that are valid.

    This is where the BGR of mmsegmentation ends. Pseudo masks, where the
    pipeline made them, get the void colour where their image is padded.
    Cached latents are stacked as they are. A GPU is not waited for: labels
    are looked at before, and batches go there from pinned memory.

    Args:
        size (Tuple[int, int], optional): Height and width to which training
            images are padded. Defaults to None, the largest of the batch.
        size_divisor (int, optional): What the padded size of training images
            must be a multiple of. Defaults to None.
        **kwargs: Further arguments of mmseg's ``SegDataPreProcessor``:
            ``pad_val`` (in [-1, 1]), ``seg_pad_val``, ``test_cfg``;
            ``mean``, ``std`` and ``bgr_to_rgb`` are given by the method.
    """

    def __init__(self,
                 size: Optional[Tuple[int, int]] = None,
                 size_divisor: Optional[int] = None,
                 **kwargs) -> None:
        if size is None and size_divisor is None:
            size_divisor = 1
        super().__init__(
            mean=[127.5] * 3,
            std=[127.5] * 3,
            size=size,
            size_divisor=size_divisor,
            **kwargs)
        self._non_blocking = True
        self._codec: Optional[dict] = None

    def serve(self, codec: PseudoMaskCodec) -> None:
        """Check training labels by the codec of the model.

        Args:
            codec (PseudoMaskCodec): Knows the classes and void.

        Raises:
            ValueError: If labels are padded with anything but void.
        """
        if self.seg_pad_val != codec.ignore_index:
            raise ValueError(
                'seg_pad_val of the data_preprocessor must be ignore_index='
                f'{codec.ignore_index} of the codec, but got {self.seg_pad_val}')
        self._codec = codec.spec

    def _check_labels(self, data_samples: Sequence[SegDataSample]) -> None:
        """Raise a ValueError that names the file of a wrong label."""
        if self._codec is None:
            return
        for sample in data_samples:
            check_labels(sample.gt_sem_seg.data, self._codec['num_classes'],
                         self._codec['ignore_index'],
                         sample.get('seg_map_path', 'gt_sem_seg'))

    def cast_data(self, data: Any) -> Any:
        """Copy data to the device, without waiting for a GPU."""
        if self.device.type == 'cuda':
            data = pin(data)
        return super().cast_data(data)

    def forward(self, data: dict, training: bool = False) -> Dict[str, Any]:
        """Normalize, pad and stack a batch.

        Args:
            data (dict): ``inputs``, BGR uint8 images (3, H, W), and
                ``data_samples``; or those of :class:`CachedLatentsDataset`.
            training (bool): Whether to pad the labels as well. Defaults to
                False.

        Returns:
            Dict[str, Any]: ``inputs`` of shape (B, 3, H, W) and
            ``data_samples``, in training with ``gt_pseudo_mask`` of shape
            (3, H, W); or ``inputs`` of shape (B, 2, C, h, w).

        Raises:
            ValueError: If cached latents are of images that it would pad, or
                a training label is neither a class nor void.
        """
        if 'gt_mask_latent' in data['data_samples'][0]:
            return self._stack_latents(self.cast_data(data))
        if training:
            self._check_labels(data['data_samples'])
        data = super().forward(data, training)
        # Not by mmseg's bgr_to_rgb: its list of indices waits for the device.
        data['inputs'] = data['inputs'].flip(1)
        if training:
            for sample in data['data_samples']:
                if 'gt_pseudo_mask' in sample:
                    self._finish_pseudo_mask(sample, data['inputs'].shape[-2:])
        return data

    @staticmethod
    def _finish_pseudo_mask(sample: SegDataSample, shape: tuple) -> None:
        levels = sample.gt_pseudo_mask.data.float()
        height, width = levels.shape[-2:]
        if (height, width) != tuple(shape):
            canvas = levels.new_empty(3, *shape)
            for channel, level in zip(
                    canvas, sample.codec['void_color'], strict=True):
                channel.fill_(level)
            canvas[:, :height, :width] = levels
            levels = canvas
        sample.set_data(
            dict(
                gt_pseudo_mask=PixelData(
                    data=PseudoMaskCodec.normalize(levels))))

    def _stack_latents(self, data: dict) -> Dict[str, Any]:
        for sample in data['data_samples']:
            self.check_unpadded(sample.gt_sem_seg.shape)
            sample.gt_sem_seg.data = sample.gt_sem_seg.data.long()
        return dict(data, inputs=torch.stack(data['inputs']))

    def check_unpadded(self, shape: Sequence[int]) -> None:
        """Raise a ValueError if it pads images (H, W) that are cached."""
        divisor = self.size_divisor or 1
        padded = tuple(-(-side // divisor) * divisor for side in shape)
        if self.size is not None:
            padded = tuple(map(max, zip(shape, self.size, strict=True)))
        if padded != tuple(shape):
            raise ValueError(
                'latents can be cached only of images that are not padded, '
                f'but the data_preprocessor with size={self.size} and '
                f'size_divisor={self.size_divisor} pads {tuple(shape)} to '
                f'{padded} (height, width): resize them in the pipeline')
