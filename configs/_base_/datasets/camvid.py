# CamVid, 480 x 360: trained on crops at about a quarter of its size, tested at
# full size. It lies in data/camvid or where the environment variable CAMVID says.
dataset_type = 'CamVidDataset'
data_root = '{{$CAMVID:data/camvid}}'
crop_size = (96, 128)
scale = (128, 96)
# 11 of the 27 colours of three levels per channel: the eight corners of the cube
# and, for classes of few pixels, three centres of its faces. In Eq. 7's order
# the nearest two would be 127 levels apart, here they are 180; and the colours
# between two classes that often touch belong to no third one.
codec = dict(
    num_classes=11,
    divisions=3,
    spacing=127,
    # The paper's 6 / 50 of the spacing.
    amplitude=15,
    codes=(0, 26, 12, 24, 20, 2, 10, 4, 8, 18, 6),
    void_color=(127, 127, 127))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(
        type='RandomResize', scale=scale, ratio_range=(1., 1.3), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=False),
    # After Resize: the prediction is brought to the size of the labels.
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')
]
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[[
            dict(type='Resize', scale=(128, 96), keep_ratio=False),
            dict(type='Resize', scale=(160, 120), keep_ratio=False)
        ],
                    [
                        dict(type='RandomFlip', prob=0.),
                        dict(type='RandomFlip', prob=1.)
                    ], [dict(type='LoadAnnotations')],
                    [dict(type='PackSegInputs')]])
]
train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train'),
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path='img_dir/val', seg_map_path='ann_dir/val'),
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
