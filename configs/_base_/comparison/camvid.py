# What SemFlow and the methods it is compared with have in common on CamVid: the
# images, the iterations and the batch.
_base_ = [
    'mmseg::_base_/default_runtime.py', '../datasets/camvid.py',
    '../schedules/semflow_tiny.py', '../semflow_runtime.py'
]
max_iters = 2600
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
