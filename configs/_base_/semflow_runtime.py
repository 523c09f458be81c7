# Stands beside mmseg::_base_/default_runtime.py in the _base_ of a config.
# The second reads checkpoints safely, writes them whole, and lets processes on
# CPUs form a group.
custom_imports = dict(
    imports=['mmseg_semflow', 'mmseg_semflow.runtime'],
    allow_failed_imports=False)
# Ranks must not draw the same flow times.
randomness = dict(seed=0, diff_rank_seed=True)
# Without device ids DDP works on GPUs and on CPUs.
model_wrapper_cfg = dict(
    type='MMDistributedDataParallel',
    device_ids=None,
    find_unused_parameters=False,
    broadcast_buffers=False)
