# semflow_white_noise_camvid320 on a tenth of CamVid's labels: the 37 pictures that
# tools/downstream.py --share 0.1 takes, in more views. Its codes and weights of
# classes are those that were chosen on all of train.
_base_ = './semflow_white_noise_camvid320.py'
train_pipeline = [
    *_base_.train_pipeline[:-1],
    dict(type='PhotoMetricDistortion'), _base_.train_pipeline[-1]
]
train_dataloader = dict(
    dataset=dict(
        cache='data/latents/camvid_taef2_tenth',
        num_views=6,
        dataset=dict(
            indices=[i * 367 // 37 for i in range(37)], pipeline=train_pipeline)))
losses = _base_.model.semflow.losses
losses[-1].begin = 750
model = dict(semflow=dict(losses=losses))
max_iters = 1050
param_scheduler = [
    _base_.param_scheduler[0],
    dict(_base_.param_scheduler[1], end=max_iters)
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
