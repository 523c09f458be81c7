# semflow_camvid_taef2 with the preconditioning of both ends, which it had before, and
# the style that its darker pictures wanted. It wants the same cache.
_base_ = '../semflow/semflow_taef2-unet_1xb8-3600_camvid-256x320.py'
model = dict(
    semflow=dict(
        wrappers=[dict(type='EndStdPreconditioning', end_std=(0.87, 1.1))]))
synthesis = dict(style=dict(_base_.synthesis.style, strength=0.3))
custom_hooks = _base_.custom_hooks
custom_hooks[-1].synthesis.update(synthesis)
