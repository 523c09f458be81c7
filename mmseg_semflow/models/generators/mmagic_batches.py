"""The border to mmagic: its batches and its results, which are BGR."""

from typing import Any, Dict, List

from mmagic.registry import MODELS
from mmagic.structures import DataSample

from mmseg_semflow.models.data_preprocessor import SemFlowDataPreProcessor
from mmseg_semflow.pixels import resize_labels
from mmseg_semflow.synthesis import ImageSampler


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


def evaluate_batch(sampler: ImageSampler,
                   data_samples: DataSample) -> List[DataSample]:
    """Synthesise an image, or several, for every mask of a batch.

    Args:
        sampler (ImageSampler): What makes them.
        data_samples (DataSample): The batch, stacked, as
            :class:`SemFlowGeneratorDataPreProcessor` makes it.

    Returns:
        List[DataSample]: For each mask the results of
        :meth:`ImageSampler.evaluate`, their images BGR, and
        ``output.pred_img``, the same as ``fake_img``.
    """
    results = []
    for sample in data_samples.split():
        fields = sampler.evaluate(sample.gt_img.flip(0), sample.gt_label_map)
        protocol = fields.pop('protocol')
        fields = {
            key: value if key.endswith(('label_map', 'label_maps')) else
            value.flip(-3)
            for key, value in fields.items()
        }
        results.append(
            DataSample(
                **fields,
                output=DataSample(pred_img=fields['fake_img']),
                metainfo=dict(
                    img_path=sample.img_path,
                    protocol=protocol,
                    pred_channel_order='BGR',
                    gt_channel_order='BGR')))
    return results
