# mmsegmentation's SegFormer-B0 on the toy street, from nothing: a judge of what is
# synthesised.
_base_ = [
    'mmseg::_base_/models/segformer_mit-b0.py',
    '../_base_/comparison/toy_street.py'
]
model = dict(
    data_preprocessor=dict(size=(64, 96)),
    decode_head=dict(
        num_classes=8, norm_cfg=dict(type='BN', requires_grad=True)))
optim_wrapper = dict(optimizer=dict(lr=1e-3))
