# mmsegmentation's MaskFormer with a ResNet-50 on COCO-Stuff-164k, 512 x 512. Needs
# mmdet: pip install 'mmseg_semflow[comparison]'.
#   tools/dist_train.sh configs/comparison/maskformer_coco_stuff164k.py 8
# Network, losses, batch, iterations, rates and clipping are those of mmsegmentation's
# maskformer_r50-d32_8xb2-160k_ade20k-512x512.py, images those of its
# coco-stuff164k.py; the SemFlow paper tells neither the backbone nor the schedule of
# its MaskFormer. The ResNet starts from torchvision's weights.
_base_ = [
    'mmseg::_base_/datasets/coco-stuff164k.py',
    'mmseg::_base_/default_runtime.py', '../_base_/comparison/loops.py',
    '../_base_/comparison/maskformer_r50.py', '../_base_/semflow_runtime.py'
]
custom_imports = dict(
    imports=_base_.custom_imports.imports + ['mmseg_semflow.comparison.maskformer'])
num_classes = 171
model = dict(
    decode_head=dict(
        num_classes=num_classes,
        loss_cls=dict(class_weight=[1.] * num_classes + [0.1])))
dataset_type = 'CheckedCOCOStuffDataset'
train_dataloader = dict(batch_size=2, dataset=dict(type=dataset_type))
val_dataloader = dict(dataset=dict(type=dataset_type))
test_dataloader = val_dataloader
max_iters = 160000
optim_wrapper = dict(
    optimizer=dict(
        type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-4),
    clip_grad=dict(max_norm=0.01, norm_type=2),
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1))))
param_scheduler = [
    dict(
        type='PolyLR',
        eta_min=0,
        power=0.9,
        begin=0,
        end=max_iters,
        by_epoch=False)
]
train_cfg = dict(max_iters=max_iters, val_interval=16000)
default_hooks = dict(checkpoint=dict(interval=16000))
