# SegFormer-B0 at 256 x 320, for as long as semflow_camvid_taef2.py trains.
_base_ = ['./segformer_b0_camvid.py', '../_base_/datasets/at_256x320.py']
globals().update(_base_.at_256x320)
model = dict(data_preprocessor=dict(size=_base_.at_256x320.crop_size))
max_iters = 650
param_scheduler = [
    _base_.param_scheduler[0],
    dict(_base_.param_scheduler[1], end=max_iters)
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
