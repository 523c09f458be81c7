# Short trainings of the tiny network on a CPU: warm-up 100, linear decay, EMA.
max_iters = 1700
warmup_iters = 100
# On a CPU: bfloat16 where it has instructions for it, else float32.
optim_wrapper = dict(
    type='AutocastOptimWrapper',
    optimizer=dict(
        type='AdamW',
        lr=2e-3,
        betas=(0.9, 0.999),
        weight_decay=0.01,
        fused=True),
    clip_grad=dict(max_norm=1.))
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-3,
        begin=0,
        end=warmup_iters,
        by_epoch=False),
    dict(
        type='LinearLR',
        start_factor=1.,
        end_factor=0.,
        begin=warmup_iters,
        end=max_iters,
        by_epoch=False)
]
train_cfg = dict(
    type='ResumableTrainLoop',
    max_iters=max_iters,
    val_interval=max_iters,
    max_unreadable=10)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='SafeCheckpointHook', by_epoch=False, interval=500, max_keep_ckpts=2),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='SegVisualizationHook', interval=1))
custom_hooks = [
    dict(type='StopOnInvalidLossHook'),
    dict(
        type='EMAHook',
        ema_type='MomentumAnnealingEMA',
        momentum=0.002,
        gamma=10,
        priority='ABOVE_NORMAL')
]
