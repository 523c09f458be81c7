# What generators of mmagic have in common on CamVid: three images per mask at the
# size of the crops, mmagic's loops, the metrics of the synthesis.
_base_ = ['./camvid.py', './generator_runtime.py']
globals().update(_base_.one_way_runtime)
synthesis = dict(num_samples=3, seed=0, size=_base_.crop_size)
