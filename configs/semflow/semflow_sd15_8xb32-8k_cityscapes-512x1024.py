# The paper's recipe for Cityscapes: Stable Diffusion 1.5 on 8 GPUs x 32 images of
# 512 x 1024, 8k iterations. It segments and synthesises in 25 Euler steps.
#   tools/dist_train.sh configs/semflow_cityscapes.py 8
# Gradients are clipped as the paper says. In the released code they are not: under
# DeepSpeed 0.12 to 0.16 its setting has no effect. To do the same, add
#   --cfg-options optim_wrapper.clip_grad=None
_base_ = [
    '../_base_/models/semflow_sd15.py',
    '../_base_/cityscapes_512x1024_8k.py'
]
model = dict(semflow=dict(codec=_base_.codec))
