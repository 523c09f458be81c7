# The white noise on the mask latent that semflow_camvid_taef2 had before noise of several
# sizes, for the configs that were measured with it. Under a key of its own, since
# mmengine lets no two base files set one key; a config upon the recipe and this file
# puts `**_base_.white_noise` into its `semflow`.
white_noise = dict(
    process=dict(mask_noise=0.65),
    wrappers=[dict(type='EndStdPreconditioning', end_std=(0.87, 1.04))])
