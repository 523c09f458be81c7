# SC-GAN on CelebAMask-HQ, 512 x 512 from 16 x 16 cells up, in one process.
#   python tools/train.py configs/comparison/scgan_celebamask_hq.py
# All settings are those of its authors' code for these data (scgan_celeba.yml, on 8
# GPUs). Theirs has besides a perceptual loss (VGG, weight 10), an encoder of images, a
# third block of 768 channels, 512 channels before the first, and the codes of
# positions in the masks.
_base_ = './spade_celebamask_hq.py'
model = dict(
    type='SCGAN',
    generator=dict(
        type='SCGANGenerator',
        channels=(768, 768, 384, 192, 96, 48),
        vector_channels=(512, 256, 128, 64, 32, 32),
        num_candidates=3,
        temperature=0.05),
    loss_config=dict(regression_loss_weight=1.))
optim_wrapper = dict(
    generators=dict(optimizer=dict(betas=(0., 0.999))),
    discriminators=dict(optimizer=dict(betas=(0., 0.999))))
