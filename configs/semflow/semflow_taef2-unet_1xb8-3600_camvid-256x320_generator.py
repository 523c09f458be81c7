# CamVid in mmagic, masks to images of 256 x 320: the weights are those of
# semflow_camvid_taef2.py.
#   python tools/test.py configs/semflow_generator_camvid_taef2.py CHECKPOINT
_base_ = [
    './semflow_taef2-unet_1xb8-3600_camvid-256x320.py',
    '../_base_/mmagic_runtime.py'
]
globals().update(_base_.mmagic_runtime)
model = dict(
    _base_.generator,
    test_cfg=dict(
        _base_.generator.test_cfg, **_base_.synthesis, segment_steps=1))
# It has the metrics of SynthesisEvalHook in its own evaluator.
custom_hooks = [h for h in _base_.custom_hooks if h.type != 'SynthesisEvalHook']
