# 30k iterations at 1e-4, warm-up 500, linear decay.
_base_ = './semflow_8k.py'
max_iters = 30000
warmup_iters = 500
optim_wrapper = dict(optimizer=dict(lr=1e-4))
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-6,
        begin=0,
        end=warmup_iters + 1,
        by_epoch=False),
    dict(
        type='LinearLR',
        start_factor=1.,
        end_factor=0.,
        begin=warmup_iters,
        end=max_iters + 1,
        by_epoch=False)
]
train_cfg = dict(max_iters=max_iters, val_interval=5000)
default_hooks = dict(checkpoint=dict(interval=5000))
