# BBDM the other way: a Brownian bridge from image to mask, a segmentor.
_base_ = [
    '../_base_/comparison/camvid.py', '../_base_/models/semflow_tiny.py'
]
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    semflow=dict(
        codec=_base_.codec,
        process=dict(type='BrownianBridge', direction='image_to_mask'),
        losses=[dict(type='MatchingLoss', ignore_void=True)],
        wrappers=[]),
    test_cfg=dict(num_steps=25, solver='bridge'))
