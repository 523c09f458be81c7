# What recipes for Cityscapes have in common upon any base: all but the model.
_base_ = [
    './datasets/cityscapes_512x1024.py', 'mmseg::_base_/default_runtime.py',
    './schedules/semflow_8k.py', './semflow_runtime.py', './synthesis_metrics.py'
]
# How images are synthesised, here and by the tools.
synthesis = dict(num_steps=25, size=_base_.scale[::-1], dtype='bfloat16')
custom_hooks = _base_.custom_hooks + [
    dict(
        type='SynthesisEvalHook',
        metrics=_base_.synthesis_metrics,
        synthesis=dict(**synthesis, num_samples=2, segment_steps=25),
        interval=4)
]
