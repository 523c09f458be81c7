# The same for GANs, with rates that are constant for the first half of the training
# and fall to 0 in the second.
_base_ = './generator_camvid.py'
globals().update(_base_.gan_runtime)
model = dict(
    data_preprocessor=dict(
        type='MaskTranslationDataPreProcessor',
        codec=_base_.codec,
        size=_base_.crop_size),
    test_cfg=_base_.synthesis)
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1.,
        end_factor=0.,
        begin=_base_.max_iters // 2,
        end=_base_.max_iters,
        by_epoch=False)
]
