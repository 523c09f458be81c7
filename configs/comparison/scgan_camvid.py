# SC-GAN with a twelfth of its channels for CelebAMask-HQ and vectors an eighth as
# long, from 3 x 4 cells up.
_base_ = './spade_camvid.py'
model = dict(
    type='SCGAN',
    generator=dict(
        type='SCGANGenerator',
        channels=(64, 64, 32, 16, 8, 4),
        vector_channels=(64, 32, 16, 8, 4, 4),
        hidden_channels=8),
    discriminator=dict(patch=dict(base_channels=8)),
    loss_config=dict(regression_loss_weight=1.))
