# The toy street in mmagic, masks to images of 64 x 96: the weights are those of
# semflow_toy.py.
#   python tools/test.py configs/semflow_generator_toy.py CHECKPOINT
_base_ = [
    './semflow_tiny-unet_1xb8-1700_toy-street-64x96.py',
    '../_base_/mmagic_runtime.py'
]
globals().update(_base_.mmagic_runtime)
model = dict(
    _base_.generator,
    test_cfg=dict(
        _base_.generator.test_cfg, **_base_.synthesis, segment_steps=1))
# It has the metrics of SynthesisEvalHook in its own evaluator.
custom_hooks = [h for h in _base_.custom_hooks if h.type != 'SynthesisEvalHook']
