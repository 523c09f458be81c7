# mmagic's CycleGAN on Cityscapes, between colours and images of 512 x 1024, in one
# process.
#   python tools/train.py configs/comparison/cyclegan_cityscapes.py
# Widths, blocks, batch, epochs (100 at a constant rate, 100 in which it falls to 0),
# rate and weights of the losses are its paper's, but their Cityscapes is of 128 x 128
# pixels, with 6 blocks; 9 are theirs from 256 x 256 on. The colours are SemFlow's. It
# has no noise: the images of a mask are equal, its diversity is 0.
_base_ = '../_base_/comparison/gan_cityscapes.py'
model = dict(
    type='MaskCycleGAN',
    size_divisor=4,
    generator=dict(
        type='ResnetGenerator',
        in_channels=3,
        out_channels=3,
        base_channels=64,
        num_blocks=9),
    discriminator=dict(
        type='PatchDiscriminator',
        in_channels=3,
        base_channels=64,
        norm_cfg=dict(type='IN')),
    loss_config=dict(cycle_loss_weight=10., id_loss_weight=0.))
train_dataloader = dict(batch_size=1)
max_iters = 200 * 2975
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
