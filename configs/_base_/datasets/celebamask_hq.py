# CelebAMask-HQ as tools/dataset_converters/celebamask_hq.py writes it.
dataset_type = 'CelebAMaskHQDataset'
data_root = 'data/celebamask_hq'
codec = dict(num_classes=19, divisions=6, spacing=50, amplitude=6)
scale = (512, 512)
# Images as in the released code, by Pillow and bicubic.
resize = dict(
    type='Resize', scale=scale, keep_ratio=False, backend='pillow',
    interpolation='bicubic')
# What a mirror image swaps: l_eye and r_eye, l_brow and r_brow, l_ear and r_ear.
swap_seg_labels = [(4, 5), (6, 7), (8, 9)]
train_pipeline = [
    dict(type='LoadImageFromFile'),
    resize,
    dict(type='LoadAnnotations'),
    # The labels by nearest; the image has its size.
    dict(type='Resize', scale=scale, keep_ratio=False),
    dict(type='RandomFlip', prob=0.5, swap_seg_labels=swap_seg_labels),
    dict(type='PackSegInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    resize,
    # After Resize: the prediction is brought to the size of the labels.
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')
]
# No flip: mmsegmentation flips the prediction back but does not swap left and
# right, and would average left eyes with right ones.
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[[
            resize,
            dict(resize, scale=(640, 640))
        ], [dict(type='LoadAnnotations')], [dict(type='PackSegInputs')]])
]
data_prefix = dict(img_path='img_dir', seg_map_path='ann_dir')
train_dataloader = dict(
    batch_size=32,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='train.txt',
        data_prefix=data_prefix,
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='val.txt',
        data_prefix=data_prefix,
        pipeline=test_pipeline))
test_dataloader = dict(
    val_dataloader, dataset=dict(val_dataloader['dataset'], ann_file='test.txt'))
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
