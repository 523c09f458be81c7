# COCO-Stuff in the paper: 320k iterations at 1e-5 after a warm-up of 10k, float32.
_base_ = './semflow_8k.py'
max_iters = 320000
warmup_iters = 10000
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(
        type='AdamW', lr=1e-5, betas=(0.9, 0.999), weight_decay=0.01),
    clip_grad=dict(max_norm=1.))
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-6,
        begin=0,
        end=warmup_iters + 1,
        by_epoch=False)
]
train_cfg = dict(max_iters=max_iters, val_interval=20000)
default_hooks = dict(checkpoint=dict(interval=20000))
