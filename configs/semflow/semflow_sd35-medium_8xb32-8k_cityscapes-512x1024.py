# The recipe for Cityscapes upon the transformer of Stable Diffusion 3.5 medium, with
# the schedule of the paper.
# It was not run to its end (docs/bases.md).
#   tools/dist_train.sh configs/semflow_cityscapes_sd35.py 8
_base_ = [
    '../_base_/models/semflow_sd35-medium.py',
    '../_base_/cityscapes_512x1024_8k.py'
]
model = dict(semflow=dict(codec=_base_.codec))
