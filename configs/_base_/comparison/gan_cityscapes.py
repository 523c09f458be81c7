# What GANs have in common on Cityscapes: 2975 training images of 512 x 1024, three
# images per mask. Batch, iterations and rates are the config's.
_base_ = [
    '../datasets/cityscapes_512x1024.py', 'mmseg::_base_/default_runtime.py',
    './loops.py', '../semflow_runtime.py', './generator_runtime.py'
]
globals().update(_base_.gan_runtime)
synthesis = dict(num_samples=3, seed=0, size=_base_.scale[::-1])
model = dict(
    data_preprocessor=dict(
        type='MaskTranslationDataPreProcessor', codec=_base_.codec),
    test_cfg=synthesis)
