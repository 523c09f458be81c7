# CelebAMask-HQ in mmagic, masks to images of 512 x 512: the weights are those of
# semflow_celebamask_hq.py.
#   python tools/test.py configs/semflow_generator_celebamask_hq.py CHECKPOINT
_base_ = [
    './semflow_sd15_8xb32-80k_celebamask-hq-512x512.py',
    '../_base_/mmagic_runtime.py'
]
globals().update(_base_.mmagic_runtime)
model = dict(
    _base_.generator,
    test_cfg=dict(
        _base_.generator.test_cfg, **_base_.synthesis, segment_steps=25))
# It has the metrics of SynthesisEvalHook in its own evaluator.
custom_hooks = [h for h in _base_.custom_hooks if h.type != 'SynthesisEvalHook']
