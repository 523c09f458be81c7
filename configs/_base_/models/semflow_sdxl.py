# UNet and VAE of Stable Diffusion XL. It is told the size of the pictures, as that of
# the original and without a crop: set picture_size to that of the training.
# Only training reads this folder; a checkpoint of ours needs no other file.
sd_folder = 'pretrained/stable-diffusion-xl-base-1.0'
model = dict(
    type='SemFlow',
    data_preprocessor=dict(type='SemFlowDataPreProcessor'),
    semflow=dict(
        type='SemFlowModel',
        network=dict(
            type='VelocityUNet',
            sd_folder=sd_folder,
            gradient_checkpointing=True,
            picture_size=(1024, 1024),
            unet=dict(
                sample_size=128,
                in_channels=4,
                out_channels=4,
                down_block_types=('DownBlock2D', 'CrossAttnDownBlock2D',
                                  'CrossAttnDownBlock2D'),
                up_block_types=('CrossAttnUpBlock2D', 'CrossAttnUpBlock2D',
                                'UpBlock2D'),
                block_out_channels=(320, 640, 1280),
                layers_per_block=2,
                transformer_layers_per_block=(1, 2, 10),
                attention_head_dim=(5, 10, 20),
                use_linear_projection=True,
                cross_attention_dim=2048,
                addition_embed_type='text_time',
                addition_time_embed_dim=256,
                projection_class_embeddings_input_dim=2816)),
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
                latent_channels=4,
                scaling_factor=0.13025))),
    test_cfg=dict(mode='whole', num_steps=25, solver='euler'))
