# CelebAMask-HQ as the authors' released code trains it, for their weights: it
# perturbs by 6.375 levels where the paper says 6, does not swap left and right in
# mirrored faces, and does not clip gradients (under DeepSpeed 0.12 to 0.16 its
# setting has no effect).
#   python tools/model_converters/released2semflow.py \
#       configs/semflow_celebamask_hq_released.py face.pt face.pth
#   python tools/test.py configs/semflow_celebamask_hq_released.py face.pth
_base_ = './semflow_sd15_8xb32-80k_celebamask-hq-512x512.py'
codec = dict(_base_.codec, amplitude=6.375)
model = dict(semflow=dict(codec=codec))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    _base_.resize,
    dict(type='LoadAnnotations'),
    dict(type='Resize', scale=_base_.scale, keep_ratio=False),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs')
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(clip_grad=None)
