# Style swap, first step: the UNet of Stable Diffusion 1.5 is fitted to the pictures of
# GTA5 by its own objective, under the null prompt, at DGInStyle's rate and length.
#   tools/dist_train.sh configs/semflow_gta5_source.py 8
_base_ = [
    '../_base_/datasets/gta5_to_cityscapes_512x512.py',
    'mmseg::_base_/default_runtime.py', '../_base_/models/semflow_sd15.py',
    '../_base_/schedules/semflow_30k.py', '../_base_/semflow_runtime.py'
]
model = dict(
    semflow=dict(codec=_base_.codec, process=dict(type='ImageDiffusion')),
    # It leads to no masks: nothing is validated.
    test_cfg=dict(_delete_=True, mode='none'))
optim_wrapper = dict(optimizer=dict(lr=2e-6))
train_cfg = dict(val_begin=_base_.max_iters + 1)
synthesis = dict(num_steps=25, size=(512, 512), dtype='bfloat16')
