_base_ = [
    './_base_/models/semflow_tiny.py', './_base_/datasets/toy_street.py',
    './_base_/schedules/semflow_8k.py', './_base_/semflow_runtime.py',
    'mmseg::_base_/default_runtime.py'
]
model = dict(semflow=dict(codec=_base_.codec, one_step_loss=dict(weight=0.1, fraction=0.5)))
optim_wrapper = dict(_delete_=True, type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3), clip_grad=dict(max_norm=1.))
max_iters=1400
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=100, by_epoch=False),
    dict(type='LinearLR', start_factor=1., end_factor=0., begin=100, end=max_iters, by_epoch=False)
]
train_cfg=dict(max_iters=max_iters, val_interval=700)
default_hooks=dict(checkpoint=dict(interval=700))
