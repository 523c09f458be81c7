# The same for GANs: two optimizers, and, as all their authors have it, no average
# of the weights and rates that are constant for the first half of the training and
# fall to 0 in the second. It takes one process: mmagic does not average the
# gradients of these models.
_base_ = './generator_camvid.py'
custom_imports = dict(
    imports=_base_.custom_imports.imports + ['mmseg_semflow.comparison.gans'])
model = dict(
    data_preprocessor=dict(
        type='MaskTranslationDataPreProcessor',
        codec=_base_.codec,
        size=_base_.crop_size),
    test_cfg=_base_.synthesis)
optimizer = dict(type='Adam', lr=2e-4, betas=(0.5, 0.999))
optim_wrapper = dict(
    _delete_=True,
    constructor='MultiOptimWrapperConstructor',
    generators=dict(type='OptimWrapper', optimizer=optimizer),
    discriminators=dict(type='OptimWrapper', optimizer=optimizer))
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1.,
        end_factor=0.,
        begin=_base_.max_iters // 2,
        end=_base_.max_iters,
        by_epoch=False)
]
custom_hooks = [dict(type='StopOnInvalidLossHook')]
model_wrapper_cfg = dict(
    _delete_=True,
    type='MMSeparateDistributedDataParallel',
    device_ids=None,
    find_unused_parameters=False,
    broadcast_buffers=False)
