# An FPN upon EfficientNet-Lite0 with ImageNet's weights, which come as a package (the
# extra `features`), at 256 x 320, for as long as semflow_camvid_taef2.py trains.
_base_ = [
    'mmseg::_base_/models/fpn_r50.py', '../_base_/comparison/camvid.py',
    '../_base_/datasets/at_256x320.py'
]
globals().update(_base_.at_256x320)
custom_imports = dict(
    imports=[
        *_base_.custom_imports.imports,
        'mmseg_semflow.comparison.efficientnet_lite'
    ],
    allow_failed_imports=False)
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    pretrained=None,
    data_preprocessor=dict(
        mean=[127.] * 3, std=[128.] * 3, size=_base_.at_256x320.crop_size),
    backbone=dict(_delete_=True, type='EfficientNetLite'),
    # Of the published 256, whose convolutions at a stride of 4 take most of a step.
    neck=dict(in_channels=[24, 40, 112, 320], out_channels=64),
    decode_head=dict(
        in_channels=[64] * 4, channels=64, num_classes=11, norm_cfg=norm_cfg))
optim_wrapper = dict(
    optimizer=dict(lr=1e-3),
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.3))))
max_iters = 570
param_scheduler = [
    _base_.param_scheduler[0],
    dict(_base_.param_scheduler[1], end=max_iters)
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
