# The paper's recipe for CelebAMask-HQ: Stable Diffusion 1.5 on 8 GPUs x 32 images
# of 512 x 512, 80k iterations. It segments and synthesises in 25 Euler steps.
#   tools/dist_train.sh configs/semflow_celebamask_hq.py 8
# Gradients are clipped as the paper says. In the released code they are not: under
# DeepSpeed 0.12 to 0.16 its setting has no effect. To do the same, add
#   --cfg-options optim_wrapper.clip_grad=None
_base_ = [
    '../_base_/datasets/celebamask_hq.py',
    'mmseg::_base_/default_runtime.py', '../_base_/models/semflow_sd15.py',
    '../_base_/schedules/semflow_80k.py', '../_base_/semflow_runtime.py',
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
        interval=5)
]
