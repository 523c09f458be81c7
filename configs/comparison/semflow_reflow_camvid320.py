# semflow_white_noise_camvid320 upon its own checkpoint, distilled to draw in one step
# what it drew in three. It wants the same cache.
_base_ = './semflow_white_noise_camvid320.py'
load_from = 'work_dirs/semflow_white_noise_camvid320/iter_3600.pth'
matching, refiner_loss, _ = _base_.model.semflow.losses
model = dict(
    semflow=dict(
        # Real pictures teach segmentation, at t = 0; all other times are the teacher's.
        process=dict(start_fraction=0.99, clean_fraction=0., end_fraction=0.),
        losses=[
            matching, refiner_loss,
            dict(
                type='ReflowLoss',
                teacher=load_from,
                num_steps=3,
                min_agreement=0.8)
        ]))
max_iters = 400
optim_wrapper = dict(optimizer=dict(lr=5e-4))
param_scheduler = [
    dict(_base_.param_scheduler[0], end=20),
    dict(_base_.param_scheduler[1], begin=20, end=max_iters)
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
synthesis = dict(num_steps=1)
custom_hooks = _base_.custom_hooks
custom_hooks[-1].synthesis.update(synthesis)
