# mmsegmentation's SegFormer-B0, from nothing.
_base_ = [
    'mmseg::_base_/models/segformer_mit-b0.py',
    '../_base_/comparison/camvid.py'
]
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    decode_head=dict(
        num_classes=11, norm_cfg=dict(type='BN', requires_grad=True)))
optim_wrapper = dict(optimizer=dict(lr=1e-3))
