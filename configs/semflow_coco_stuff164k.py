# The paper's recipe for COCO-Stuff-164k: 8 GPUs x 16 crops of 512 x 512.
#   tools/dist_train.sh configs/semflow_coco_stuff164k.py 8
_base_ = [
    'mmseg::_base_/datasets/coco-stuff164k.py',
    'mmseg::_base_/default_runtime.py', './_base_/models/semflow_sd15.py',
    './_base_/schedules/semflow_320k.py', './_base_/semflow_runtime.py'
]
dataset_type = 'CheckedCOCOStuffDataset'
# 171 of the 6^3 = 216 colours that Eq. 7 has.
codec = dict(num_classes=171, divisions=6, spacing=50, amplitude=6)
crop_size = (512, 512)
model = dict(
    # A crop of a picture more than four times as long as wide is padded with
    # void, and pictures that keep their ratio in tests to what the VAE takes.
    data_preprocessor=dict(size=crop_size, test_cfg=dict(size_divisor=8)),
    semflow=dict(codec=codec))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    # The shorter side becomes that of the crop: a square as large as fits.
    dict(type='Resize', scale=(2048, 512), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs')
]
# Squeezed to the size of the training, as in the released code; all pictures
# have one size then, and predictions are brought to that of the labels.
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=crop_size, keep_ratio=False),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')
]
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[[dict(type='Resize', scale=crop_size, keep_ratio=False)],
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
# How images are drawn, here and by the tools.
synthesis = dict(num_steps=25, size=crop_size)
custom_hooks = _base_.custom_hooks + [
    dict(
        type='SynthesisEvalHook',
        metrics=[
            dict(type='InceptionDistance'),
            dict(type='PerceptualDistance'),
            dict(type='MaskConsistency'),
            dict(type='SampleDiversity')
        ],
        synthesis=dict(**synthesis, num_samples=2, segment_steps=25),
        interval=8)
]
