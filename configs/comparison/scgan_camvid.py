# SC-GAN with an eighth of its channels for CelebAMask-HQ, from 3 x 4 cells up.
_base_ = './spade_camvid.py'
model = dict(
    type='SCGAN',
    generator=dict(
        type='SCGANGenerator',
        channels=(96, 96, 48, 24, 12, 6),
        vector_channels=(64, 32, 16, 8, 4, 4)),
    discriminator=dict(patch=dict(base_channels=8)),
    loss_config=dict(regression_loss_weight=1.))
