# The recipe for CelebAMask-HQ from latents that were encoded before:
#   tools/cache_latents.py configs/semflow_celebamask_hq_cached.py
#   tools/dist_train.sh configs/semflow_celebamask_hq_cached.py 8
_base_ = './semflow_sd15_8xb32-80k_celebamask-hq-512x512.py'
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='CachedLatentsDataset',
        cache='data/latents/celebamask_hq',
        dataset=_base_.train_dataloader.dataset))
