# Transformer and 16-channel VAE of Stable Diffusion 3.5 medium.
# Only training reads this folder; a checkpoint of ours needs no other file.
sd_folder = 'pretrained/stable-diffusion-3.5-medium'
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
                type='SD3Transformer2DModel',
                sample_size=128,
                patch_size=2,
                in_channels=16,
                out_channels=16,
                num_layers=24,
                attention_head_dim=64,
                num_attention_heads=24,
                joint_attention_dim=4096,
                caption_projection_dim=1536,
                pooled_projection_dim=2048,
                pos_embed_max_size=384,
                dual_attention_layers=tuple(range(13)),
                qk_norm='rms_norm')),
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
                scaling_factor=1.5305,
                shift_factor=0.0609,
                use_quant_conv=False,
                use_post_quant_conv=False))),
    test_cfg=dict(mode='whole', num_steps=25, solver='euler'))
