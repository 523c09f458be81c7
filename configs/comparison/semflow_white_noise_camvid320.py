# semflow_camvid_taef2 with the noise on the mask latent that it had before noise of
# several sizes: samples are more alike, labels a little better. It wants the same
# cache, and is what the configs of few labels and of other drives were measured upon.
_base_ = '../semflow/semflow_taef2-unet_1xb8-3600_camvid-256x320.py'
model = dict(
    semflow=dict(
        process=dict(mask_noise=0.65),
        wrappers=[dict(type='EndStdPreconditioning', end_std=(0.87, 1.04))]))
# Without the style of the recipe, which knows all training pictures.
synthesis = dict(style=None)
custom_hooks = _base_.custom_hooks
custom_hooks[-1].synthesis.update(synthesis)
