# pix2pix at 256 x 320, for as long as semflow_camvid_taef2.py trains.
_base_ = ['./pix2pix_camvid.py', '../_base_/datasets/at_256x320.py']
globals().update(_base_.at_256x320)
size = _base_.at_256x320.crop_size
model = dict(
    data_preprocessor=dict(size=size),
    test_cfg=dict(size=size))
max_iters = 810
param_scheduler = [
    dict(_base_.param_scheduler[0], begin=max_iters // 2, end=max_iters)
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
