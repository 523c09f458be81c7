# SemFlow by the paper's objective alone, as plain as DSM beside it: uniform t, no
# preconditioning.
_base_ = '../semflow/semflow_tiny-unet_1xb8-1700_toy-street-64x96.py'
model = dict(
    semflow=dict(
        process=dict(start_fraction=0.),
        losses=[dict(type='MatchingLoss')],
        wrappers=[]))
