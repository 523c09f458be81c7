# The recipe for Cityscapes upon the transformer of Stable Diffusion 3.5 medium, with
# the schedule of the paper.
# It was not run to its end (docs/bases.md).
#   tools/dist_train.sh configs/semflow_cityscapes_sd35.py 8
_base_ = [
    '../_base_/datasets/cityscapes_512x1024.py',
    'mmseg::_base_/default_runtime.py', '../_base_/models/semflow_sd35-medium.py',
    '../_base_/schedules/semflow_8k.py', '../_base_/semflow_runtime.py',
    '../_base_/synthesis_metrics.py'
]
model = dict(semflow=dict(codec=_base_.codec))
# How images are synthesised, here and by the tools.
synthesis = dict(num_steps=25, size=_base_.scale[::-1], dtype='bfloat16')
custom_hooks = _base_.custom_hooks + [
    dict(
        type='SynthesisEvalHook',
        metrics=_base_.synthesis_metrics,
        synthesis=dict(**synthesis, num_samples=2, segment_steps=25),
        interval=4)
]
