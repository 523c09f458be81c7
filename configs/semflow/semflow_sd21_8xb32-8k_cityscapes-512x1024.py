# The recipe for Cityscapes upon Stable Diffusion 2.1, with the paper's schedule.
# It was not run to its end (docs/bases.md).
#   tools/dist_train.sh configs/semflow_cityscapes_sd21.py 8
_base_ = [
    '../_base_/models/semflow_sd21.py',
    '../_base_/cityscapes_512x1024_8k.py'
]
model = dict(semflow=dict(codec=_base_.codec))
