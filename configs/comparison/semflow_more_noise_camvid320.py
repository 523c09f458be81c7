# The recipe in TAEF2's latents with more noise on the mask latents, and its loss of
# features on three of eight samples; see docs/results.md.
_base_ = '../semflow/semflow_taef2-unet_1xb8-3400_camvid-256x320.py'
losses = _base_.model.semflow.losses
losses[-1].update(last_fraction=0.375, crop_size=(12, 24), begin=2600)
model = dict(
    semflow=dict(
        process=dict(mask_noise=0.65),
        wrappers=[dict(type='EndStdPreconditioning', end_std=(0.87, 1.04))],
        losses=losses))
max_iters = 3300
param_scheduler = [
    _base_.param_scheduler[0],
    dict(_base_.param_scheduler[1], end=max_iters)
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
