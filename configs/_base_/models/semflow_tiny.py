# A small UNet on the lossless patch autoencoder: trains from nothing on a CPU.
model = dict(
    type='SemFlow',
    data_preprocessor=dict(type='SemFlowDataPreProcessor'),
    semflow=dict(
        type='SemFlowModel',
        network=dict(
            type='VelocityUNet',
            prompt_length=1,
            unet=dict(
                in_channels=48,
                out_channels=48,
                down_block_types=('DownBlock2D', 'DownBlock2D', 'DownBlock2D'),
                mid_block_type='UNetMidBlock2DCrossAttn',
                up_block_types=('UpBlock2D', 'UpBlock2D', 'UpBlock2D'),
                block_out_channels=(64, 96, 128),
                layers_per_block=1,
                attention_head_dim=4,
                cross_attention_dim=32)),
        # About the standard deviations of images and pseudo masks.
        wrappers=[dict(type='EndStdPreconditioning', end_std=(0.5, 1.))],
        autoencoder=dict(type='PatchAutoencoder', factor=4)),
    test_cfg=dict(mode='whole', num_steps=1, solver='euler'))
