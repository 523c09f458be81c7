# semflow_white_noise_camvid320 on CamVid's pictures of the day, with mmsegmentation's
# colour augmentation before they are encoded, tested at dusk. Its codes and weights of
# classes are those that were chosen on all of train.
_base_ = [
    './semflow_white_noise_camvid320.py',
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
losses = _base_.model.semflow.losses
losses[-1].begin = 2000
model = dict(semflow=dict(losses=losses))
max_iters = 2600
param_scheduler = [
    _base_.param_scheduler[0],
    dict(_base_.param_scheduler[1], end=max_iters)
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
