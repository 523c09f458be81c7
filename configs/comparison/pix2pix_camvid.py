# mmagic's pix2pix with three eighths of its channels, from colours to images.
# Its U-Net reaches 1 x 1 at 128 x 128, to which images are padded: with fewer
# levels it would have no dropout, its only noise. Normalisation is of
# instances, as by the batches of one image in the paper: it is the same in
# training and in tests.
_base_ = '../_base_/comparison/gan_camvid.py'
norm_cfg = dict(type='IN')
num_down = 7
model = dict(
    type='MaskPix2Pix',
    size_divisor=2**num_down,
    generator=dict(
        type='UnetGenerator',
        in_channels=3,
        out_channels=3,
        num_down=num_down,
        base_channels=24,
        norm_cfg=norm_cfg,
        use_dropout=True),
    discriminator=dict(
        type='PatchDiscriminator',
        in_channels=6,
        base_channels=24,
        norm_cfg=norm_cfg),
    loss_config=dict(pixel_loss_weight=100.))
