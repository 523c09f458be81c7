# mmsegmentation's MaskFormer with a ResNet-18, a quarter as wide as published
# and from nothing. Needs mmdet: pip install 'mmseg_semflow[comparison]'.
_base_ = [
    '../_base_/comparison/camvid.py', '../_base_/comparison/maskformer_r50.py'
]
custom_imports = dict(
    imports=_base_.custom_imports.imports + ['mmseg_semflow.comparison.maskformer'])
num_classes = 11
width = 64
attention = dict(embed_dims=width)
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=dict(depth=18, norm_eval=False, init_cfg=None),
    decode_head=dict(
        in_channels=[64, 128, 256, 512],
        feat_channels=width,
        out_channels=width,
        num_classes=num_classes,
        num_queries=25,
        positional_encoding=dict(num_feats=width // 2),
        transformer_decoder=dict(
            num_layers=3,
            layer_cfg=dict(
                self_attn_cfg=attention,
                cross_attn_cfg=attention,
                ffn_cfg=dict(
                    embed_dims=width, feedforward_channels=8 * width))),
        loss_cls=dict(class_weight=[1.] * num_classes + [0.1])))
optim_wrapper = dict(optimizer=dict(lr=5e-4))
