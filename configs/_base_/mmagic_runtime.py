# What a generator changes of a segmentor's config: mmagic's loops, evaluator and
# visualizer. They have names of their own here, since mmengine lets no two base
# files set one key.
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
mmagic_val_cfg = dict(_delete_=True, type='MultiValLoop')
mmagic_test_cfg = dict(_delete_=True, type='MultiTestLoop')
mmagic_visualizer = dict(
    _delete_=True,
    type='ConcatImageVisualizer',
    vis_backends=[dict(type='LocalVisBackend')],
    fn_key='img_path',
    img_keys=['gt_img', 'fake_img'],
    bgr2rgb=True)
mmagic_hooks = dict(
    visualization=dict(_delete_=True, type='BasicVisualizationHook'))
