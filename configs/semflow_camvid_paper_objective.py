# CamVid by the paper's objective alone (Eq. 10, void left out), on a CPU:
# about 20 minutes on 2 cores.
_base_ = [
    'mmseg::_base_/default_runtime.py', './_base_/models/semflow_tiny.py',
    './_base_/datasets/camvid.py', './_base_/schedules/semflow_tiny.py',
    './_base_/semflow_runtime.py'
]
max_iters = 5000
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    semflow=dict(codec=_base_.codec, ignore_void=True))
param_scheduler = [
    dict(
        type='LinearLR', start_factor=1e-3, begin=0, end=100, by_epoch=False),
    dict(
        type='LinearLR',
        start_factor=1.,
        end_factor=0.,
        begin=100,
        end=max_iters,
        by_epoch=False)
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
