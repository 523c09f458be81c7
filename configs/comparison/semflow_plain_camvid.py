# SemFlow as plain as DSM beside it: uniform t, no preconditioning.
_base_ = '../semflow_camvid_paper_objective.py'
model = dict(
    semflow=dict(process=dict(start_fraction=0.), wrappers=[]))
