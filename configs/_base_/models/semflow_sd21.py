# UNet and VAE of Stable Diffusion 2.1, by default of its version for 768 pixels, which
# predicts v = alpha eps - sigma x: like SemFlow's velocity it points away from the
# picture. That for 512 pixels (base) has the same networks: set both sd_folder to it.
# Only training reads this folder; a checkpoint of ours needs no other file.
sd_folder = 'pretrained/stable-diffusion-2-1'
model = dict(
    type='SemFlow',
    data_preprocessor=dict(type='SemFlowDataPreProcessor'),
    semflow=dict(
        type='SemFlowModel',
        network=dict(
            type='VelocityUNet',
            sd_folder=sd_folder,
            gradient_checkpointing=True,
            unet=dict(
                sample_size=96,
                in_channels=4,
                out_channels=4,
                down_block_types=('CrossAttnDownBlock2D',
                                  'CrossAttnDownBlock2D',
                                  'CrossAttnDownBlock2D', 'DownBlock2D'),
                up_block_types=('UpBlock2D', 'CrossAttnUpBlock2D',
                                'CrossAttnUpBlock2D', 'CrossAttnUpBlock2D'),
                block_out_channels=(320, 640, 1280, 1280),
                layers_per_block=2,
                attention_head_dim=(5, 10, 20, 20),
                use_linear_projection=True,
                cross_attention_dim=1024)),
        autoencoder=dict(
            type='KLAutoencoder',
            sd_folder=sd_folder,
            vae=dict(
                sample_size=768,
                in_channels=3,
                out_channels=3,
                down_block_types=('DownEncoderBlock2D', ) * 4,
                up_block_types=('UpDecoderBlock2D', ) * 4,
                block_out_channels=(128, 256, 512, 512),
                layers_per_block=2,
                latent_channels=4,
                scaling_factor=0.18215))),
    test_cfg=dict(mode='whole', num_steps=25, solver='euler'))
