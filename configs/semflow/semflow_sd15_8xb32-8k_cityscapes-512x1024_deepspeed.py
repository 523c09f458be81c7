# semflow_cityscapes.py with gradients and AdamW's moments sharded over the GPUs
# by DeepSpeed's ZeRO-2, in bfloat16 with float32 master weights.
#   tools/dist_train.sh configs/semflow_cityscapes_deepspeed.py 8
# Without clipping, as the released code trains: --cfg-options
#   strategy.gradient_clipping=0.
_base_ = './semflow_sd15_8xb32-8k_cityscapes-512x1024.py'
runner_type = 'FlexibleRunner'
strategy = dict(
    type='DeepSpeedStrategy',
    bf16=dict(enabled=True),
    gradient_clipping=1.,
    zero_optimization=dict(stage=2, overlap_comm=True))
optim_wrapper = dict(
    _delete_=True,
    type='DeepSpeedOptimWrapper',
    optimizer=dict(type='AdamW', lr=5e-5, betas=(0.9, 0.999), weight_decay=0.01))
