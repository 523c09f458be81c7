# SemFlow as plain as DSM beside it: uniform t, no preconditioning.
_base_ = '../semflow/semflow_tiny-unet_1xb8-2600_camvid-96x128_paper-objective.py'
model = dict(
    semflow=dict(process=dict(start_fraction=0.), wrappers=[]))
