# What generators of mmagic have in common on CamVid: three images a mask at the
# size of the crops, mmagic's loops, the metrics of the synthesis. The data is
# mmsegmentation's.
_base_ = ['./camvid.py', '../mmagic_runtime.py']
default_scope = 'mmagic'
synthesis = dict(num_samples=3, seed=0, size=_base_.crop_size)
train_dataloader = dict(dataset=dict(_scope_='mmseg'))
val_dataloader = dict(dataset=dict(_scope_='mmseg'))
test_dataloader = val_dataloader
val_evaluator = dict(
    _delete_=True,
    type='Evaluator',
    # A GAN cannot segment what it draws: MaskConsistency needs a segmentor. In
    # a config upon one of these:
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
test_evaluator = val_evaluator
val_cfg = _base_.mmagic_val_cfg
test_cfg = _base_.mmagic_test_cfg
visualizer = _base_.mmagic_visualizer
default_hooks = _base_.mmagic_hooks
