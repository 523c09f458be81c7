_base_ = [
    './_base_/models/semflow_tiny.py', './_base_/datasets/camvid.py',
    './_base_/schedules/semflow_8k.py', './_base_/semflow_runtime.py',
    'mmseg::_base_/default_runtime.py'
]
model = dict(
    semflow=dict(
        codec=_base_.codec,
        ignore_void=True,
        one_step_loss=dict(weight=0.1, fraction=0.5)))
optim_wrapper = dict(_delete_=True, type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3), clip_grad=dict(max_norm=1.))
