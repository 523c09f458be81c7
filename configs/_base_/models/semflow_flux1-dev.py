# Transformer and 16-channel VAE of FLUX.1 [dev]. FLUX.1 [schnell] has no guidance:
# set guidance_embeds=False, prompt_length=256 and its folder.
# Only training reads this folder; a checkpoint of ours needs no other file.
sd_folder = 'pretrained/FLUX.1-dev'
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
                type='FluxTransformer2DModel',
                in_channels=64,
                num_layers=19,
                num_single_layers=38,
                attention_head_dim=128,
                num_attention_heads=24,
                joint_attention_dim=4096,
                pooled_projection_dim=768,
                guidance_embeds=True,
                axes_dims_rope=(16, 56, 56))),
        autoencoder=dict(
            type='KLAutoencoder',
            sd_folder=sd_folder,
            vae=dict(
                sample_size=1024,
                in_channels=3,
                out_channels=3,
                down_block_types=('DownEncoderBlock2D', ) * 4,
                up_block_types=('UpDecoderBlock2D', ) * 4,
                block_out_channels=(128, 256, 512, 512),
                layers_per_block=2,
                latent_channels=16,
                scaling_factor=0.3611,
                shift_factor=0.1159,
                use_quant_conv=False,
                use_post_quant_conv=False))),
    test_cfg=dict(mode='whole', num_steps=25, solver='euler'))
