# SymmFlow's objective: image and noise to noise and mask, twice the channels.
_base_ = [
    '../_base_/comparison/camvid.py', '../_base_/models/semflow_tiny.py'
]
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    semflow=dict(
        codec=_base_.codec,
        process=dict(type='SymmetricFlow'),
        losses=[dict(type='MatchingLoss', ignore_void=True)],
        wrappers=[],
        network=dict(unet=dict(in_channels=96, out_channels=96))))
synthesis = dict(num_steps=25, size=_base_.crop_size)
