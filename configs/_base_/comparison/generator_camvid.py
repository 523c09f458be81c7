# What generators of mmagic have in common on CamVid: three images per mask at the
# size of the crops, mmagic's loops, the metrics of the synthesis.
_base_ = ['./camvid.py', '../mmagic_runtime.py']
globals().update(_base_.mmagic_runtime)
synthesis = dict(num_samples=3, seed=0, size=_base_.crop_size)
val_evaluator = dict(
    _base_.mmagic_evaluator,
    # A GAN cannot segment what it makes: MaskConsistency needs a segmentor. In
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
