"""Results in mmagic's form."""

from typing import List

from mmagic.structures import DataSample

from mmseg_semflow.models.synthesizer import ImageSampler


def draw_samples(sampler: ImageSampler,
                 data_samples: DataSample) -> List[DataSample]:
    """Draw an image, or several, for every mask of a batch.

    Args:
        sampler (ImageSampler): What draws them.
        data_samples (DataSample): The batch, stacked, as
            :class:`SemFlowGeneratorDataPreProcessor` makes it.

    Returns:
        List[DataSample]: For each mask the results of
        :meth:`ImageSampler.evaluate` and ``output.pred_img``, the same as
        ``fake_img``.
    """
    results = []
    for sample in data_samples.split():
        fields = sampler.evaluate(sample.gt_img.flip(0), sample.gt_label_map)
        protocol = fields.pop('protocol')
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
