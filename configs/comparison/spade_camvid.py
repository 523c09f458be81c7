# SPADE with an eighth of its channels and one level less, from 3 x 4 cells up,
# with the two rates of its paper.
_base_ = '../_base_/comparison/gan_camvid.py'
model = dict(
    type='SPADE',
    data_preprocessor=dict(one_hot=True),
    generator=dict(
        type='SPADEGenerator',
        size=_base_.crop_size,
        mask_channels=12,
        channels=(128, 128, 64, 32, 16, 8),
        hidden_channels=16),
    discriminator=dict(
        type='MultiScalePatchDiscriminator',
        spectral=True,
        patch=dict(
            type='PatchDiscriminator',
            in_channels=15,
            base_channels=16,
            norm_cfg=dict(type='IN'))),
    loss_config=dict(feature_loss_weight=10.))
optim_wrapper = dict(
    generators=dict(optimizer=dict(lr=1e-4, betas=(0., 0.999))),
    discriminators=dict(optimizer=dict(lr=4e-4, betas=(0., 0.999))))
