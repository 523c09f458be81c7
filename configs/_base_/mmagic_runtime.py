# What a generator in mmagic changes of a segmentor's recipe. It stands under keys
# of its own, since mmengine lets no two base files set one key. A config upon a
# recipe and this file takes `mmagic_runtime` as if its lines stood there,
#   globals().update(_base_.mmagic_runtime)
# and makes its model of `generator`.
mmagic_evaluator = dict(
    _delete_=True,
    type='Evaluator',
    metrics=[
        dict(type='InceptionDistance'),
        dict(type='PerceptualDistance'),
        dict(type='MaskConsistency'),
        dict(type='SampleDiversity'),
        dict(type='RoundTrip')
    ])
mmagic_runtime = dict(
    default_scope='mmagic',
    custom_imports=dict(
        imports=['mmseg_semflow.runtime', 'mmseg_semflow.models.generators']),
    # The data are mmsegmentation's.
    train_dataloader=dict(dataset=dict(_scope_='mmseg')),
    val_dataloader=dict(dataset=dict(_scope_='mmseg')),
    test_dataloader=dict(dataset=dict(_scope_='mmseg')),
    val_evaluator=mmagic_evaluator,
    test_evaluator=mmagic_evaluator,
    val_cfg=dict(_delete_=True, type='MultiValLoop'),
    test_cfg=dict(_delete_=True, type='MultiTestLoop'),
    visualizer=dict(
        _delete_=True,
        type='ConcatImageVisualizer',
        vis_backends=[dict(type='LocalVisBackend')],
        fn_key='img_path',
        img_keys=['gt_img', 'samples'],
        bgr2rgb=True),
    default_hooks=dict(
        visualization=dict(_delete_=True, type='BasicVisualizationHook')))
# Of the recipe remain `semflow` and, in `data_preprocessor`, sizes; its
# `synthesis` belongs into `test_cfg`.
generator = dict(
    type='SemFlowGenerator',
    data_preprocessor=dict(type='SemFlowGeneratorDataPreProcessor'),
    test_cfg=dict(_delete_=True, num_samples=3, round_trip=True))
