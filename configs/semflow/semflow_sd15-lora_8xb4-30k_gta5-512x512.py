# Style swap, second step: SemFlow as an adapter of the UNet that was fitted to GTA5,
# with the classes as text. Rank, rate and length are chosen, not measured.
#   tools/dist_train.sh configs/semflow_gta5.py 8
_base_ = [
    '../_base_/datasets/gta5_to_cityscapes_512x512.py',
    'mmseg::_base_/default_runtime.py', '../_base_/models/semflow_sd15_text_lora.py',
    '../_base_/schedules/semflow_30k.py', '../_base_/semflow_runtime.py',
    '../_base_/synthesis_metrics.py'
]
model = dict(semflow=dict(codec=_base_.codec))
synthesis = dict(num_steps=25, size=(512, 512), dtype='bfloat16')
custom_hooks = _base_.custom_hooks + [
    dict(
        type='SynthesisEvalHook',
        metrics=_base_.synthesis_metrics,
        # Of whole pictures of Cityscapes, as segmentation is tested.
        synthesis=dict(
            synthesis, size=(512, 1024), num_samples=2, segment_steps=25),
        interval=2)
]
