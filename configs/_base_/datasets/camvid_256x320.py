# CamVid at about two thirds of its size.
_base_ = ['./camvid.py', './at_256x320.py']
globals().update(_base_.at_256x320)
