# The paper's recipe for COCO-Stuff-164k: Stable Diffusion 1.5 on 8 GPUs x 16 crops
# of 512 x 512, 320k iterations. It segments and synthesises in 25 Euler steps.
#   tools/dist_train.sh configs/semflow_coco_stuff164k.py 8
_base_ = [
    '../_base_/datasets/coco_stuff164k_512x512.py',
    'mmseg::_base_/default_runtime.py', '../_base_/models/semflow_sd15.py',
    '../_base_/schedules/semflow_320k.py', '../_base_/semflow_runtime.py',
    '../_base_/synthesis_metrics.py'
]
model = dict(
    # A crop of an image more than four times as long as wide is padded with
    # void, and images that keep their ratio in tests to what the VAE takes.
    data_preprocessor=dict(
        size=_base_.crop_size, test_cfg=dict(size_divisor=8)),
    semflow=dict(codec=_base_.codec))
# How images are synthesised, here and by the tools.
synthesis = dict(num_steps=25, size=_base_.crop_size)
custom_hooks = _base_.custom_hooks + [
    dict(
        type='SynthesisEvalHook',
        metrics=_base_.synthesis_metrics,
        synthesis=dict(**synthesis, num_samples=2, segment_steps=25),
        interval=8)
]
