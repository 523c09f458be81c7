# SemFlow by the paper's objective alone, as plain as DSM beside it: uniform t, no
# preconditioning, the perturbation of every pixel by itself.
_base_ = '../semflow/semflow_tiny-unet_1xb8-1700_toy-street-64x96.py'
model = dict(
    semflow=dict(
        codec=dict(amplitude=15, grain=1),
        process=dict(start_fraction=0., end_fraction=0., time_grid='uniform'),
        refiner=None,
        losses=[dict(type='MatchingLoss')],
        network=dict(unet=dict(class_embed_type=None)),
        wrappers=[]))
# As DSM is trained.
optim_wrapper = dict(optimizer=dict(lr=2e-3, betas=(0.9, 0.999)))
synthesis = dict(num_steps=3, style=None)
custom_hooks = _base_.custom_hooks
custom_hooks[-1].synthesis.update(synthesis)
