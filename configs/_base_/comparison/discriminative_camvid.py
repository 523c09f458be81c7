# The same for mmsegmentation's own segmentors.
_base_ = './camvid.py'
train_pipeline = [
    transform for transform in _base_.train_pipeline if transform['type'] not in
    ('GeneratePseudoMask', 'PerturbPseudoMask', 'PackSemFlowInputs')
] + [dict(type='PackSegInputs')]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
