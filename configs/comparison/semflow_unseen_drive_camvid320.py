# semflow_white_noise_camvid320 on two drives of CamVid, with mmsegmentation's colour
# augmentation before they are encoded, tested on the third. Its codes and weights of
# classes are those that were chosen on all of train.
_base_ = [
    './semflow_white_noise_camvid320.py',
    '../_base_/datasets/camvid_unseen_drive.py'
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
