# What the generators that SemFlow is compared with change of a config of
# mmsegmentation's data, under keys of its own as in mmagic_runtime.py: a config upon
# this file takes `one_way_runtime`, or `gan_runtime`, as if its lines stood there.
_base_ = '../mmagic_runtime.py'
one_way_evaluator = dict(
    _base_.mmagic_evaluator,
    # What leads to images alone cannot segment what it makes: MaskConsistency
    # needs a segmentor. In a config upon one of these:
    #   metrics = _base_.val_evaluator.metrics + [
    #       dict(
    #           type='MaskConsistency',
    #           segmentor='configs/comparison/segformer_b0_camvid.py',
    #           checkpoint='work_dirs/segformer_b0_camvid/iter_2600.pth')
    #   ]
    #   val_evaluator = dict(metrics=metrics)
    #   test_evaluator = val_evaluator
    metrics=[
        dict(type='InceptionDistance'),
        dict(type='PerceptualDistance'),
        dict(type='SampleDiversity')
    ])
one_way_runtime = dict(
    _base_.mmagic_runtime,
    val_evaluator=one_way_evaluator,
    test_evaluator=one_way_evaluator)
# GANs have two optimizers and, as all their authors have it, no average of the
# weights. They take one process: mmagic does not average the gradients of these
# models.
gan_optimizer = dict(type='Adam', lr=2e-4, betas=(0.5, 0.999))
gan_runtime = dict(
    one_way_runtime,
    custom_imports=dict(
        imports=_base_.mmagic_runtime.custom_imports.imports +
        ['mmseg_semflow.comparison.gans']),
    optim_wrapper=dict(
        _delete_=True,
        constructor='MultiOptimWrapperConstructor',
        generators=dict(type='OptimWrapper', optimizer=gan_optimizer),
        discriminators=dict(type='OptimWrapper', optimizer=gan_optimizer)),
    custom_hooks=[dict(type='StopOnInvalidLossHook')],
    model_wrapper_cfg=dict(
        _delete_=True,
        type='MMSeparateDistributedDataParallel',
        device_ids=None,
        find_unused_parameters=False,
        broadcast_buffers=False))
