# Loops and hooks of trainings on the paper's data that are not SemFlow's recipe.
# Their optimizers and number of iterations are the config's.
optim_wrapper = dict(type='OptimWrapper')
train_cfg = dict(type='ResumableTrainLoop', max_unreadable=10)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='SafeCheckpointHook', by_epoch=False, max_keep_ckpts=2),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='SegVisualizationHook'))
custom_hooks = [dict(type='StopOnInvalidLossHook')]
