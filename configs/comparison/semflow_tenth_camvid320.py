# The recipe in TAEF2's latents on a tenth of CamVid's labels: the 37 pictures that
# tools/downstream.py --share 0.1 takes, in more views. Its codes and weights of
# classes are those that were chosen on all of train.
_base_ = [
    '../semflow/semflow_taef2-unet_1xb8-3600_camvid-256x320.py',
    '../_base_/models/taef2_white_noise.py'
]
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
model = dict(semflow=dict(**_base_.white_noise, losses=losses))
max_iters = 1050
param_scheduler = [
    _base_.param_scheduler[0],
    dict(_base_.param_scheduler[1], end=max_iters)
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
# Without the style of the recipe, which knows all pictures.
synthesis = dict(style=None)
custom_hooks = _base_.custom_hooks
custom_hooks[-1].synthesis.update(synthesis)
