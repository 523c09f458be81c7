# MaskFormer as mmsegmentation's maskformer_r50-d32_8xb2-160k_ade20k-512x512.py has it.
# Its focal loss computes on a GPU what it does on a CPU. The number of classes, which
# stands in num_classes and class_weight, is the config's.
width = 256
attention = dict(
    embed_dims=width, num_heads=8, attn_drop=0.1, proj_drop=0.1, batch_first=True)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(512, 512)),
    backbone=dict(
        type='ResNet',
        depth=50,
        # Its statistics stay those of ImageNet, hence not of all GPUs.
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50')),
    decode_head=dict(
        type='MaskFormerHead',
        in_channels=[256, 512, 1024, 2048],
        in_index=[0, 1, 2, 3],
        feat_channels=width,
        out_channels=width,
        num_queries=100,
        enforce_decoder_input_project=False,
        pixel_decoder=dict(
            type='mmdet.PixelDecoder',
            norm_cfg=dict(type='GN', num_groups=32),
            act_cfg=dict(type='ReLU')),
        positional_encoding=dict(num_feats=width // 2, normalize=True),
        transformer_decoder=dict(
            return_intermediate=True,
            num_layers=6,
            layer_cfg=dict(
                self_attn_cfg=attention,
                cross_attn_cfg=attention,
                ffn_cfg=dict(
                    embed_dims=width, feedforward_channels=8 * width,
                    ffn_drop=0.1))),
        loss_cls=dict(type='mmdet.CrossEntropyLoss'),
        loss_mask=dict(
            type='OneHotFocalLoss', use_sigmoid=True, loss_weight=20.),
        loss_dice=dict(
            type='mmdet.DiceLoss',
            use_sigmoid=True,
            activate=True,
            naive_dice=True,
            eps=1.,
            loss_weight=1.),
        train_cfg=dict(
            assigner=dict(
                type='mmdet.HungarianAssigner',
                match_costs=[
                    dict(type='mmdet.ClassificationCost', weight=1.),
                    dict(
                        type='mmdet.FocalLossCost',
                        weight=20.,
                        binary_input=True),
                    dict(type='mmdet.DiceCost', weight=1., pred_act=True, eps=1.)
                ]),
            sampler=dict(type='mmdet.MaskPseudoSampler'))),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))
