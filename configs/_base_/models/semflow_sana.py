# Transformer of SANA 1.5 (1.6B) and its autoencoder, whose cells are of 32 x 32
# pixels: what is thinner may be lost in them (tools/compare_codecs.py tells).
# Only training reads this folder; a checkpoint of ours needs no other file.
sd_folder = 'pretrained/SANA1.5_1.6B_1024px_diffusers'
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
                type='SanaTransformer2DModel',
                sample_size=32,
                patch_size=1,
                in_channels=32,
                out_channels=32,
                num_layers=20,
                num_attention_heads=70,
                attention_head_dim=32,
                num_cross_attention_heads=20,
                cross_attention_head_dim=112,
                cross_attention_dim=2240,
                caption_channels=2304,
                mlp_ratio=2.5,
                qk_norm='rms_norm_across_heads')),
        autoencoder=dict(
            type='DCAutoencoder',
            sd_folder=sd_folder,
            vae=dict(
                latent_channels=32,
                attention_head_dim=32,
                encoder_block_types=('ResBlock', ) * 3 + ('EfficientViTBlock', ) * 3,
                decoder_block_types=('ResBlock', ) * 3 + ('EfficientViTBlock', ) * 3,
                encoder_block_out_channels=(128, 256, 512, 512, 1024, 1024),
                decoder_block_out_channels=(128, 256, 512, 512, 1024, 1024),
                encoder_layers_per_block=(2, 2, 2, 3, 3, 3),
                decoder_layers_per_block=(3, 3, 3, 3, 3, 3),
                encoder_qkv_multiscales=((), (), (), (5, ), (5, ), (5, )),
                decoder_qkv_multiscales=((), (), (), (5, ), (5, ), (5, )),
                downsample_block_type='Conv',
                upsample_block_type='interpolate',
                scaling_factor=0.41407))),
    test_cfg=dict(mode='whole', num_steps=25, solver='euler'))
