# The recipe for Cityscapes from latents that were encoded before:
#   tools/cache_latents.py configs/semflow_cityscapes_cached.py
#   tools/dist_train.sh configs/semflow_cityscapes_cached.py 8
_base_ = './semflow_sd15_8xb32-8k_cityscapes-512x1024.py'
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='CachedLatentsDataset',
        cache='data/latents/cityscapes',
        dataset=_base_.train_dataloader.dataset))
