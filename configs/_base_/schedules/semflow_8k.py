# Cityscapes in the paper: 8k iterations at 5e-5, warm-up 500, linear decay.
max_iters = 8000
warmup_iters = 500
optim_wrapper = dict(
    type='AutocastOptimWrapper',
    dtype='bfloat16',
    # bfloat16 needs none, and looking for overflows waits for the GPU.
    loss_scale=dict(enabled=False),
    optimizer=dict(
        type='AdamW', lr=5e-5, betas=(0.9, 0.999), weight_decay=0.01),
    clip_grad=dict(max_norm=1.))
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
train_cfg = dict(
    type='ResumableTrainLoop',
    max_iters=max_iters,
    val_interval=1000,
    max_unreadable=10)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='SafeCheckpointHook', by_epoch=False, interval=1000, max_keep_ckpts=2),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='SegVisualizationHook'))
custom_hooks = [dict(type='StopOnInvalidLossHook')]
