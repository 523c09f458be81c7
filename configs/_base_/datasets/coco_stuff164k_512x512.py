# COCO-Stuff-164k: trained on crops of 512 x 512, tested at that size.
_base_ = 'mmseg::_base_/datasets/coco-stuff164k.py'
dataset_type = 'CheckedCOCOStuffDataset'
# 171 of the 6^3 = 216 colours that Eq. 7 has.
codec = dict(num_classes=171, divisions=6, spacing=50, amplitude=6)
crop_size = (512, 512)
# Images as in the released code, by Pillow and bicubic.
resize = dict(
    type='Resize', scale=crop_size, keep_ratio=False, backend='pillow',
    interpolation='bicubic')
train_pipeline = [
    dict(type='LoadImageFromFile'),
    # The shorter side becomes that of the crop: a square as large as fits.
    dict(resize, scale=(2048, 512), keep_ratio=True),
    dict(type='LoadAnnotations'),
    # The labels by nearest; the image has its size.
    dict(type='Resize', scale=(2048, 512), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs')
]
# Squeezed to the size of the training, as in the released code; all images
# have one size then, and predictions are brought to that of the labels.
test_pipeline = [
    dict(type='LoadImageFromFile'),
    resize,
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
    batch_size=16,
    num_workers=8,
    dataset=dict(type=dataset_type, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(type=dataset_type, pipeline=test_pipeline))
test_dataloader = val_dataloader
