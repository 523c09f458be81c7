# The recipe in TAEF2's latents on CamVid's pictures of the day, with mmsegmentation's
# colour augmentation before they are encoded, tested at dusk. Its codes and weights of
# classes are those that were chosen on all of train.
_base_ = [
    '../semflow/semflow_taef2-unet_1xb8-3400_camvid-256x320.py',
    '../_base_/datasets/camvid_dusk.py'
]
train_pipeline = [
    *_base_.train_pipeline[:-1],
    dict(type='PhotoMetricDistortion'), _base_.train_pipeline[-1]
]
train_dataloader = dict(
    dataset=dict(
        cache='data/latents/camvid_taef2_by_day',
        dataset=dict(filter_cfg=_base_.by_day, pipeline=train_pipeline)))
test_dataloader = _base_.at_dusk
