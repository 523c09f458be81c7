# Transformer of DiT-XL/2 (512 pixels) and its VAE, that of Stable Diffusion 1. It
# takes square pictures alone.
# Only training reads this folder; a checkpoint of ours needs no other file.
sd_folder = 'pretrained/DiT-XL-2-512'
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
                type='DiTTransformer2DModel',
                sample_size=64,
                patch_size=2,
                in_channels=4,
                out_channels=8,
                num_layers=28,
                num_attention_heads=16,
                attention_head_dim=72)),
        autoencoder=dict(
            type='KLAutoencoder',
            sd_folder=sd_folder,
            vae=dict(
                sample_size=256,
                in_channels=3,
                out_channels=3,
                down_block_types=('DownEncoderBlock2D', ) * 4,
                up_block_types=('UpDecoderBlock2D', ) * 4,
                block_out_channels=(128, 256, 512, 512),
                layers_per_block=2,
                latent_channels=4,
                scaling_factor=0.18215))),
    test_cfg=dict(mode='whole', num_steps=25, solver='euler'))
