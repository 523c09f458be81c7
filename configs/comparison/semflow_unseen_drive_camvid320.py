# The recipe in TAEF2's latents on two drives of CamVid, with mmsegmentation's colour
# augmentation before they are encoded, tested on the third. Its codes and weights of
# classes are those that were chosen on all of train.
_base_ = [
    '../semflow/semflow_taef2-unet_1xb8-3600_camvid-256x320.py',
    '../_base_/datasets/camvid_unseen_drive.py',
    '../_base_/models/taef2_white_noise.py'
]
train_pipeline = [
    *_base_.train_pipeline[:-1],
    dict(type='PhotoMetricDistortion'), _base_.train_pipeline[-1]
]
train_dataloader = dict(
    dataset=dict(
        cache='data/latents/camvid_taef2_unseen_drive',
        dataset=dict(
            filter_cfg=_base_.training_drives, pipeline=train_pipeline)))
test_dataloader = _base_.unseen_drive
model = dict(semflow=_base_.white_noise)
# Without the style of the recipe, which knows all drives.
synthesis = dict(style=None)
custom_hooks = _base_.custom_hooks
custom_hooks[-1].synthesis.update(synthesis)
