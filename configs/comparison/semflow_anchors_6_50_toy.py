# The anchors of the paper, k = 6 and s = 50, in place of the widest spacing.
_base_ = './semflow_plain_toy.py'
anchors = dict(num_classes=8, divisions=6, spacing=50, amplitude=6)
codec = dict(_delete_=True, **anchors)
train_pipeline = [
    dict(transform, codec=anchors)
    if transform['type'] == 'GeneratePseudoMask' else transform
    for transform in _base_.train_pipeline
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
model = dict(semflow=dict(codec=dict(_delete_=True, **anchors)))
