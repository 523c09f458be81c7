# MaskFormer on two drives of CamVid, with mmsegmentation's colour augmentation,
# tested on the third.
_base_ = [
    './maskformer_camvid320.py', '../_base_/datasets/camvid_unseen_drive.py'
]
train_pipeline = [
    *_base_.train_pipeline[:-1],
    dict(type='PhotoMetricDistortion'), _base_.train_pipeline[-1]
]
train_dataloader = dict(
    dataset=dict(filter_cfg=_base_.training_drives, pipeline=train_pipeline))
test_dataloader = _base_.unseen_drive
