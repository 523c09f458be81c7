# mmagic's CycleGAN with an eighth of its channels, between colours and images. It
# has no noise: the three images of a mask are equal, its diversity is 0.
_base_ = '../_base_/comparison/gan_camvid.py'
model = dict(
    type='MaskCycleGAN',
    size_divisor=4,
    generator=dict(
        type='ResnetGenerator',
        in_channels=3,
        out_channels=3,
        base_channels=8,
        num_blocks=6),
    discriminator=dict(
        type='PatchDiscriminator',
        in_channels=3,
        base_channels=8,
        norm_cfg=dict(type='IN')),
    loss_config=dict(cycle_loss_weight=10., id_loss_weight=0.))
