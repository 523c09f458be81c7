# semflow_cityscapes.py with the UNet, its gradients and AdamW's moments sharded
# over the GPUs; the checkpoints are those of one process.
#   tools/dist_train.sh configs/semflow_cityscapes_fsdp.py 8
_base_ = './semflow_sd15_8xb32-8k_cityscapes-512x1024.py'
# The ranks must call the network together, which SynthesisEvalHook does not.
custom_hooks = [h for h in _base_.custom_hooks if h.type != 'SynthesisEvalHook']
runner_type = 'FlexibleRunner'
strategy = dict(
    type='PartialFSDPStrategy',
    model_wrapper=dict(
        type='MMFullyShardedDataParallel',
        auto_wrap_policy='wrap_unet_blocks',
        # Frozen, and called by its encode and decode.
        ignored_modules=['semflow.autoencoder']))
