# A drawn street, on a CPU: about 5 minutes on 2 cores.
_base_ = [
    'mmseg::_base_/default_runtime.py', './_base_/models/semflow_tiny.py',
    './_base_/datasets/toy_street.py', './_base_/schedules/semflow_tiny.py',
    './_base_/semflow_runtime.py'
]
model = dict(
    semflow=dict(
        codec=_base_.codec, one_step_loss=dict(weight=1., fraction=0.5, scale=1.5)))
