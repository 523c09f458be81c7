# pix2pixHD on CelebAMask-HQ, 512 x 512, in one process.
#   python tools/train.py configs/comparison/pix2pixhd_celebamask_hq.py
# Widths, batch, epochs (100 at a constant rate, 100 in which it falls to 0) and rate
# are the defaults of the authors' code, which are those of their Cityscapes: of
# CelebAMask-HQ they say nothing. Theirs has a perceptual loss too (VGG, weight 10),
# and edges of instances, of which faces have none. It has no noise: the images of a
# mask are equal, its diversity is 0.
_base_ = '../_base_/comparison/gan_celebamask_hq.py'
num_down = 4
model = dict(
    type='Pix2PixHD',
    data_preprocessor=dict(one_hot=True),
    size_divisor=2**num_down,
    generator=dict(
        type='GlobalGenerator',
        in_channels=20,
        base_channels=64,
        num_down=num_down,
        num_blocks=9),
    discriminator=dict(
        type='MultiScalePatchDiscriminator',
        num_scales=2,
        patch=dict(
            type='PatchDiscriminator',
            in_channels=23,
            base_channels=64,
            norm_cfg=dict(type='IN'))),
    loss_config=dict(feature_loss_weight=10.))
train_dataloader = dict(batch_size=1)
max_iters = 200 * 24183
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
