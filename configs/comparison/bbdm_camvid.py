# BBDM: a Brownian bridge from mask to image, in mmagic.
_base_ = [
    '../_base_/comparison/generator_camvid.py',
    '../_base_/models/semflow_tiny.py'
]
model = dict(
    type='SemFlowGenerator',
    data_preprocessor=dict(
        type='SemFlowGeneratorDataPreProcessor', size=_base_.crop_size),
    semflow=dict(
        codec=_base_.codec,
        process=dict(type='BrownianBridge'),
        losses=[dict(type='MatchingLoss', ignore_void=True)],
        wrappers=[]),
    test_cfg=dict(_delete_=True, **_base_.synthesis, num_steps=25))
