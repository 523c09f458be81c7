# A small UNet in the latents of TAEF2, a tiny autoencoder whose weights its author
# publishes: trains on a CPU. Two files, taef2_encoder.pth and taef2_decoder.pth, lie
# in pretrained or where the environment variable TAEF2 says.
autoencoder_weights = '{{$TAEF2:pretrained/taef2}}'
model = dict(
    type='SemFlow',
    data_preprocessor=dict(type='SemFlowDataPreProcessor'),
    semflow=dict(
        type='SemFlowModel',
        network=dict(
            type='VelocityUNet',
            prompt_length=1,
            unet=dict(
                in_channels=32,
                out_channels=32,
                down_block_types=('DownBlock2D', 'DownBlock2D', 'DownBlock2D'),
                mid_block_type='UNetMidBlock2DCrossAttn',
                up_block_types=('UpBlock2D', 'UpBlock2D', 'UpBlock2D'),
                block_out_channels=(64, 96, 128),
                layers_per_block=1,
                attention_head_dim=4,
                cross_attention_dim=32)),
        autoencoder=dict(
            type='TinyAutoencoder',
            latent_channels=32,
            pooled=True,
            weights=autoencoder_weights)),
    test_cfg=dict(mode='whole', num_steps=1, solver='euler'))
