# Transformer and 32-channel autoencoder of FLUX.2 [klein] base 4B.
# Only training reads this folder; a checkpoint of ours needs no other file.
sd_folder = 'pretrained/FLUX.2-klein-base-4B'
model = dict(
    type='SemFlow',
    data_preprocessor=dict(type='SemFlowDataPreProcessor'),
    semflow=dict(
        type='SemFlowModel',
        network=dict(
            type='VelocityTransformer',
            sd_folder=sd_folder,
            gradient_checkpointing=True,
            transformer=dict(
                type='Flux2Transformer2DModel',
                in_channels=128,
                num_layers=5,
                num_single_layers=20,
                attention_head_dim=128,
                num_attention_heads=24,
                joint_attention_dim=7680,
                guidance_embeds=False,
                axes_dims_rope=(32, 32, 32, 32))),
        autoencoder=dict(
            type='Flux2Autoencoder',
            sd_folder=sd_folder,
            vae=dict(
                sample_size=1024,
                block_out_channels=(128, 256, 512, 512),
                layers_per_block=2,
                latent_channels=32))),
    test_cfg=dict(mode='whole', num_steps=25, solver='euler'))
