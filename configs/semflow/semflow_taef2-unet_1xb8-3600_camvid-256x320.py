# CamVid in the latents of TAEF2, both directions from one checkpoint, on a CPU. The
# latents of some views of every picture are encoded once, then trained on:
#   python tools/cache_latents.py configs/semflow_camvid_taef2.py
#   python tools/train.py configs/semflow_camvid_taef2.py
_base_ = [
    'mmseg::_base_/default_runtime.py', '../_base_/datasets/camvid_256x320.py',
    '../_base_/schedules/semflow_tiny.py', '../_base_/semflow_runtime.py',
    '../_base_/models/semflow_taef2.py'
]
# Chosen so that a blurred pseudo mask is still nearest to the colour of the class
# that most of it has; see docs/results.md. The perturbation is noise on the mask
# latent, over 1, 2, 4, ... 32 cells as widely as pictures of one mask differ: it can
# decide what a picture shows.
codec = dict(
    num_classes=11,
    divisions=3,
    spacing=127,
    amplitude=0,
    codes=(0, 10, 9, 17, 7, 3, 21, 15, 20, 25, 2),
    void_color=(127, 127, 127))
# Proportional to 1 / sqrt(share of the class in the training set), with a mean of 1
# over all pixels.
class_weight = (0.89, 0.72, 3.55, 0.66, 1.37, 1.06, 3.39, 3.0, 1.66, 4.59, 5.03)
model = dict(
    semflow=dict(
        codec=codec,
        channels_last=True,
        process=dict(
            type='RectifiedFlow',
            mask_noise=(0.5, 0.37, 0.28, 0.21, 0.16, 0.12),
            start_fraction=0.375,
            clean_fraction=0.125,
            end_fraction=0.125,
            time_grid=dict(image_to_mask=(10, 1))),
        # Deviations of the latents of pictures and of noisy masks.
        wrappers=[dict(type='MaskPreconditioning', end_std=(0.87, 1.1))],
        refiner=dict(
            type='LatentRefiner', latent_channels=32, num_classes=11, scale=0.2),
        losses=[
            dict(type='MatchingLoss', ignore_void=True),
            dict(
                type='RefinerLoss',
                class_weight=[weight**0.5 for weight in class_weight],
                network_share=0.2),
            # Without it a single step leads to the blurred mean of all pictures.
            dict(
                type='OneStepImageLoss',
                weight=0.75,
                loss=dict(
                    type='FeatureLoss',
                    network=dict(type='EfficientNetLiteFeatures', variant=1)),
                last_fraction=0.375,  # one of them at t = 1
                crop_size=(12, 24),
                begin=2500)
        ]))
# A batch of latents is read in 10 ms: on two cores workers take more than they give.
train_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        _delete_=True,
        type='CachedLatentsDataset',
        cache='data/latents/camvid_taef2',
        num_views=3,
        crop_size=(192, 256),
        dataset=_base_.train_dataloader.dataset))
max_iters = 3600
param_scheduler = [
    _base_.param_scheduler[0],
    dict(_base_.param_scheduler[1], end=max_iters)
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
# How images are drawn, here and by the tools. The style is the mean and the deviation
# of every eighth training picture: without it pictures are dark, see docs/results.md.
synthesis = dict(
    num_steps=2,
    size=(256, 320),
    style=dict(
        type='LatentStatistics',
        mean=[
            -0.27, 0.02, 0.3, 0.07, 0.37, -0.07, -0.06, 0.08, 0.18, -0.21, 0.22, -0.1,
            -0.06, -0.03, 0.05, 0.07, 0.14, -0.04, -0.13, -0.02, -0.04, 0.06, 0.0,
            -0.21, 0.12, 0.01, -0.02, 0.12, 0.32, 0.12, 0.06, -0.04
        ],
        std=[
            0.77, 1.13, 0.9, 1.01, 0.74, 1.07, 0.77, 0.71, 1.03, 0.65, 0.65, 0.8, 0.74,
            0.64, 0.83, 1.03, 0.72, 0.68, 0.73, 1.07, 0.69, 0.67, 0.76, 0.68, 0.87, 0.8,
            0.97, 0.8, 0.81, 1.01, 0.75, 0.97
        ],
        strength=0.15))
custom_hooks = _base_.custom_hooks + [
    dict(
        type='SynthesisEvalHook',
        metrics=[
            dict(type='MaskConsistency'),
            dict(type='SampleDiversity'),
            dict(type='NoiseGain'),
            dict(type='DetailRatio'),
            dict(type='FeatureDistance')
        ],
        synthesis=dict(
            **synthesis, num_samples=2, segment_steps=1, noise_gain=True),
        num_images=20)
]
