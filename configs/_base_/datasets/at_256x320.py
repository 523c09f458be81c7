# What a config of CamVid changes to work at about two thirds of its size: it trains on
# crops of 256 x 320 and is tested at 256 x 336, the whole view. Under a key of its
# own, since mmengine lets no two base files set one key; a config upon another and
# this file takes it as if its lines stood there,
#   globals().update(_base_.at_256x320)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(
        type='RandomResize',
        scale=(342, 256),
        ratio_range=(1., 1.6),
        keep_ratio=True),
    dict(type='RandomCrop', crop_size=(256, 320)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(336, 256), keep_ratio=False),
    # After Resize: the prediction is brought to the size of the labels.
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')
]
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[[
            dict(type='Resize', scale=(336, 256), keep_ratio=False),
            dict(type='Resize', scale=(416, 320), keep_ratio=False)
        ],
                    [
                        dict(type='RandomFlip', prob=0.),
                        dict(type='RandomFlip', prob=1.)
                    ], [dict(type='LoadAnnotations')],
                    [dict(type='PackSegInputs')]])
]
at_256x320 = dict(
    crop_size=(256, 320),
    train_pipeline=train_pipeline,
    test_pipeline=test_pipeline,
    tta_pipeline=tta_pipeline,
    train_dataloader=dict(dataset=dict(pipeline=train_pipeline)),
    val_dataloader=dict(dataset=dict(pipeline=test_pipeline)),
    test_dataloader=dict(dataset=dict(pipeline=test_pipeline)))
del train_pipeline, test_pipeline, tta_pipeline
