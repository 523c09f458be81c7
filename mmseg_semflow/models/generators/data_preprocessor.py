"""Batches of mmsegmentation's samples for the generator."""

from typing import Any, Dict

from mmagic.registry import MODELS
from mmagic.structures import DataSample

from mmseg_semflow.models.data_preprocessor import SemFlowDataPreProcessor
from mmseg_semflow.models.synthesizer import resize_labels


@MODELS.register_module()
class SemFlowGeneratorDataPreProcessor(SemFlowDataPreProcessor):
    """The segmentor's data preprocessor, with mmagic's data samples in tests.

    Args:
        **kwargs: Arguments of :class:`SemFlowDataPreProcessor`.
    """

    def forward(self, data: dict, training: bool = False) -> Dict[str, Any]:
        """Normalize, pad and stack a batch.

        Args:
            data (dict): ``inputs``, BGR uint8 images (3, H, W), and
                ``data_samples`` of mmsegmentation.
            training (bool): Whether the batch is for training. Defaults to
                False.

        Returns:
            Dict[str, Any]: As :class:`SemFlowDataPreProcessor` in training.
            Otherwise ``data_samples`` is one stacked ``DataSample`` of mmagic
            with ``gt_img``, BGR, uint8, shape (B, 3, H, W), and
            ``gt_label_map``, int64, of the size of the images, shape
            (B, H, W).
        """
        if training:
            return super().forward(data, training)
        images = self.cast_data(data['inputs'])
        inputs = super().forward(data, training)
        samples = [
            DataSample(
                gt_img=image.clone(),
                gt_label_map=resize_labels(sample.gt_sem_seg.data[0],
                                           image.shape[-2:]),
                metainfo=dict(
                    img_path=sample.get('img_path'), gt_channel_order='BGR'))
            for image, sample in zip(
                images, inputs['data_samples'], strict=True)
        ]
        return dict(
            inputs=inputs['inputs'], data_samples=DataSample.stack(samples))
