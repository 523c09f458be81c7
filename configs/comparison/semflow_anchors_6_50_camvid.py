# The codec of the paper, k = 6, s = 50 and beta = 6, in place of the widest spacing.
_base_ = './semflow_plain_camvid.py'
paper = dict(
    divisions=6, spacing=50, amplitude=6, codes=None, void_color=(255, 255, 255))
codec = paper
train_pipeline = [
    dict(transform, codec=dict(_base_.codec, **paper))
    if transform['type'] == 'GeneratePseudoMask' else transform
    for transform in _base_.train_pipeline
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
model = dict(semflow=dict(codec=paper))
