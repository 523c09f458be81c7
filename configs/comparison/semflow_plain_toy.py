# SemFlow by the paper's objective alone, as plain as DSM beside it: uniform t, no
# preconditioning.
_base_ = '../semflow_toy.py'
model = dict(
    semflow=dict(
        process=dict(start_fraction=0.),
        losses=[dict(type='MatchingLoss')],
        wrappers=[]))
