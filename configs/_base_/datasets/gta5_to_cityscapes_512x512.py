# GTA5 in crops of 512 x 512, tested on Cityscapes at half its size: the sizes of
# DAFormer and DGInStyle.
_base_ = './cityscapes_512x1024.py'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='Resize', scale=(1280, 720), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(512, 512), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs')
]
train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        _delete_=True,
        type='GTA5Dataset',
        data_root='data/gta5',
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        pipeline=train_pipeline))
