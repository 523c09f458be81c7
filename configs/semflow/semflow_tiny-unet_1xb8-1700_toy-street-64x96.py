# A drawn street, on a CPU: 4 minutes on 2 cores.
_base_ = [
    'mmseg::_base_/default_runtime.py', '../_base_/models/semflow_tiny.py',
    '../_base_/datasets/toy_street.py', '../_base_/schedules/semflow_tiny.py',
    '../_base_/semflow_runtime.py'
]
# Smooth, so it can decide colours, and of a quarter of what the spacing allows, so
# that it leaves both directions easy. The style decides the light.
codec = dict(_base_.codec, amplitude=30, grain=16)
model = dict(
    semflow=dict(
        codec=codec,
        process=dict(
            type='RectifiedFlow',
            start_fraction=0.5,
            end_fraction=0.125,
            time_grid=dict(image_to_mask=(10, 1))),
        network=dict(unet=dict(class_embed_type='identity')),
        wrappers=[
            dict(type='MaskPreconditioning', end_std=(0.5, 1.1)),
            dict(
                type='StyleToken',
                latent_channels=48,
                token_channels=256,
                dropout=0.2,
                as_embedding=True)
        ],
        refiner=dict(
            type='LatentRefiner', latent_channels=48, num_classes=8, scale=0.2),
        losses=[
            dict(type='MatchingLoss'),
            dict(type='RefinerLoss', network_share=0.2)
        ]))
# Second moments of the last 20 steps; a short training cannot wait for 1000.
optim_wrapper = dict(optimizer=dict(lr=3e-3, betas=(0.9, 0.95)))
# How images are drawn, here and by the tools. The style is contrast alone, the deviation
# of red, green and blue over all training pictures, a tenth above that within one, at
# each of the 16 pixels of a patch.
synthesis = dict(
    num_steps=2,
    style=dict(
        type='LatentStatistics',
        mean=None,
        std=[0.411] * 16 + [0.362] * 16 + [0.377] * 16))
custom_hooks = _base_.custom_hooks + [
    dict(
        type='SynthesisEvalHook',
        metrics=[dict(type='MaskConsistency'), dict(type='SampleDiversity')],
        synthesis=dict(**synthesis, num_samples=3, segment_steps=1),
        num_images=20)
]
