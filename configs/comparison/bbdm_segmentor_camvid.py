# BBDM the other way: a Brownian bridge from image to mask, a segmentor.
_base_ = [
    '../_base_/comparison/camvid.py', '../_base_/models/semflow_tiny.py'
]
model = dict(
    type='BBDM',
    data_preprocessor=dict(size=_base_.crop_size),
    semflow=dict(
        type='BBDMModel',
        direction='image_to_mask',
        codec=_base_.codec,
        ignore_void=True,
        velocity_net=dict(end_std=None)),
    test_cfg=dict(num_steps=25, solver='bridge'))
