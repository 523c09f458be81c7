# Cityscapes at half its size, 1024 x 512, without crops.
_base_ = 'mmseg::_base_/datasets/cityscapes.py'
dataset_type = 'CheckedCityscapesDataset'
codec = dict(num_classes=19, divisions=6, spacing=50, amplitude=6)
scale = (1024, 512)
# Images as in the released code, by Pillow and bicubic.
resize = dict(
    type='Resize', scale=scale, keep_ratio=False, backend='pillow',
    interpolation='bicubic')
train_pipeline = [
    dict(type='LoadImageFromFile'),
    resize,
    dict(type='LoadAnnotations'),
    # The labels by nearest; the image has its size.
    dict(type='Resize', scale=scale, keep_ratio=False),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    resize,
    # After Resize: the prediction is brought to the size of the labels.
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')
]
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[[resize],
                    [
                        dict(type='RandomFlip', prob=0.),
                        dict(type='RandomFlip', prob=1.)
                    ], [dict(type='LoadAnnotations')],
                    [dict(type='PackSegInputs')]])
]
train_dataloader = dict(
    batch_size=32,
    num_workers=8,
    dataset=dict(type=dataset_type, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(type=dataset_type, pipeline=test_pipeline))
test_dataloader = val_dataloader
