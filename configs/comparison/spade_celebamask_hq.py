# SPADE on CelebAMask-HQ, 512 x 512 from 8 x 8 cells up, in one process.
#   python tools/train.py configs/comparison/spade_celebamask_hq.py
# Widths, the two rates, Adam's betas (of their code: by their word the 0.999 of the
# paper is an error) and the weight of the features are its authors', the widths those
# of their Cityscapes, which is 512 pixels wide as well. They publish nothing of
# CelebAMask-HQ: batch and epochs (50 at constant rates, 50 in which they fall to 0)
# are those of SC-GAN's code, which trains on these data and has SPADE's generator too.
# SPADE's own batch is 32, of 256 x 256 on 8 GPUs. Theirs has besides a perceptual loss
# (VGG, weight 10) and, where it has the noise z, an encoder of images.
_base_ = '../_base_/comparison/gan_celebamask_hq.py'
model = dict(
    type='SPADE',
    data_preprocessor=dict(one_hot=True),
    generator=dict(
        type='SPADEGenerator',
        size=_base_.scale[::-1],
        mask_channels=20,
        channels=(1024, 1024, 1024, 512, 256, 128, 64),
        z_channels=256,
        hidden_channels=128),
    discriminator=dict(
        type='MultiScalePatchDiscriminator',
        num_scales=2,
        spectral=True,
        patch=dict(
            type='PatchDiscriminator',
            in_channels=23,
            base_channels=64,
            norm_cfg=dict(type='IN'))),
    loss_config=dict(feature_loss_weight=10.))
optim_wrapper = dict(
    generators=dict(optimizer=dict(lr=1e-4, betas=(0., 0.9))),
    discriminators=dict(optimizer=dict(lr=4e-4, betas=(0., 0.9))))
train_dataloader = dict(batch_size=8)
max_iters = 100 * 24183 // 8
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1.,
        end_factor=0.,
        begin=max_iters // 2,
        end=max_iters,
        by_epoch=False)
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters // 20)
default_hooks = dict(checkpoint=dict(interval=max_iters // 20))
