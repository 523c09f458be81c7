# DSM on the toy street; see dsm_camvid.py.
_base_ = [
    '../_base_/comparison/toy_street.py', '../_base_/models/semflow_tiny.py'
]
model = dict(
    semflow=dict(
        codec=_base_.codec,
        process=dict(type='Diffusion'),
        wrappers=[],
        network=dict(unet=dict(in_channels=96))),
    test_cfg=dict(num_steps=50, solver='DDIMScheduler'))
comparison = dict(
    solvers=['DDIMScheduler', 'DDPMScheduler'],
    num_steps=[1, 2, 5, 10, 25, 50, 100, 200])
