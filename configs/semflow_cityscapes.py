# The paper's recipe for Cityscapes: 8 GPUs x 32 images of 512 x 1024.
#   tools/dist_train.sh configs/semflow_cityscapes.py 8
_base_ = [
    'mmseg::_base_/datasets/cityscapes.py',
    'mmseg::_base_/default_runtime.py', './_base_/models/semflow_sd15.py',
    './_base_/schedules/semflow_8k.py', './_base_/semflow_runtime.py'
]
dataset_type = 'CheckedCityscapesDataset'
codec = dict(num_classes=19, divisions=6, spacing=50, amplitude=6)
model = dict(semflow=dict(codec=codec))
scale = (1024, 512)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='Resize', scale=scale, keep_ratio=False),
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
        transforms=[[dict(type='Resize', scale=scale, keep_ratio=False)],
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
# How images are drawn, here and by the tools.
synthesis = dict(num_steps=25, size=scale[::-1], dtype='bfloat16')
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
        interval=4)
]
