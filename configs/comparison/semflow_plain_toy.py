# SemFlow by the paper's objective alone, as plain as DSM beside it: uniform t, no
# preconditioning.
_base_ = '../semflow_toy.py'
model = dict(
    semflow=dict(
        start_fraction=0.,
        one_step_loss=None,
        velocity_net=dict(end_std=None)))
