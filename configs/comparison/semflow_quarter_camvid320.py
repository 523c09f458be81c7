# As semflow_tenth_camvid320.py on a quarter of the labels: the 92 pictures that
# tools/downstream.py --share 0.25 takes.
_base_ = './semflow_tenth_camvid320.py'
train_dataloader = dict(
    dataset=dict(
        cache='data/latents/camvid_taef2_quarter',
        num_views=4,
        dataset=dict(indices=[i * 367 // 92 for i in range(92)])))
losses = _base_.model.semflow.losses
losses[-1].begin = 1250
model = dict(semflow=dict(losses=losses))
max_iters = 1800
param_scheduler = [
    _base_.param_scheduler[0],
    dict(_base_.param_scheduler[1], end=max_iters)
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
