# DSM: the same network with twice the input channels, from noise to the mask.
_base_ = [
    '../_base_/comparison/camvid.py', '../_base_/models/semflow_tiny.py'
]
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    semflow=dict(
        codec=_base_.codec,
        process=dict(type='Diffusion'),
        losses=[dict(type='MatchingLoss', ignore_void=True)],
        wrappers=[],
        network=dict(unet=dict(in_channels=96))),
    test_cfg=dict(num_steps=50, solver='DDIMScheduler'))
comparison = dict(
    solvers=['DDIMScheduler', 'DDPMScheduler'],
    num_steps=[1, 2, 5, 10, 25, 50, 100, 200])
