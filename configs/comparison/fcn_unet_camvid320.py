# The FCN-UNet at 256 x 320, for as long as semflow_camvid_taef2.py trains.
_base_ = ['./fcn_unet_camvid.py', '../_base_/datasets/at_256x320.py']
globals().update(_base_.at_256x320)
model = dict(data_preprocessor=dict(size=_base_.at_256x320.crop_size))
max_iters = 310
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=100, by_epoch=False),
    dict(
        type='LinearLR',
        start_factor=1.,
        end_factor=0.,
        begin=100,
        end=max_iters,
        by_epoch=False)
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
