# The recipe for Cityscapes upon Stable Diffusion XL, with the paper's schedule.
# It was not run to its end (docs/bases.md).
#   tools/dist_train.sh configs/semflow_cityscapes_sdxl.py 8
_base_ = [
    '../_base_/models/semflow_sdxl.py',
    '../_base_/cityscapes_512x1024_8k.py'
]
model = dict(
    semflow=dict(
        codec=_base_.codec, network=dict(picture_size=_base_.scale[::-1])))
