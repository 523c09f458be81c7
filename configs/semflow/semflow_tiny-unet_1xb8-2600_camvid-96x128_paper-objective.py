# CamVid by the paper's objective alone (Eq. 10, void left out; half of every
# batch at t = 0), on a CPU: about 15 minutes on 2 cores.
_base_ = [
    '../_base_/comparison/camvid.py', '../_base_/models/semflow_tiny.py'
]
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    semflow=dict(
        codec=_base_.codec,
        process=dict(type='RectifiedFlow', start_fraction=0.5),
        losses=[dict(type='MatchingLoss', ignore_void=True)]))
# How images are drawn, here and by the tools.
synthesis = dict(num_steps=5, size=_base_.crop_size)
custom_hooks = _base_.custom_hooks + [
    dict(
        type='SynthesisEvalHook',
        metrics=[dict(type='MaskConsistency'), dict(type='SampleDiversity')],
        synthesis=dict(**synthesis, num_samples=3, segment_steps=1),
        num_images=20)
]
