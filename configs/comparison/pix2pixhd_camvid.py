# pix2pixHD's global generator with a quarter of its channels and one
# downsampling less. It has no noise: the three images of a mask are equal, its
# diversity is 0.
_base_ = '../_base_/comparison/gan_camvid.py'
num_down = 3
model = dict(
    type='Pix2PixHD',
    data_preprocessor=dict(one_hot=True),
    size_divisor=2**num_down,
    generator=dict(
        type='GlobalGenerator',
        in_channels=12,
        base_channels=16,
        num_down=num_down,
        num_blocks=6),
    discriminator=dict(
        type='MultiScalePatchDiscriminator',
        patch=dict(
            type='PatchDiscriminator',
            in_channels=15,
            base_channels=16,
            norm_cfg=dict(type='IN'))),
    loss_config=dict(feature_loss_weight=10.))
