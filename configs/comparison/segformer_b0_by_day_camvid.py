# SegFormer-B0 on CamVid's pictures of the day, tested at dusk.
_base_ = ['./segformer_b0_camvid.py', '../_base_/datasets/camvid_dusk.py']
train_dataloader = dict(dataset=dict(filter_cfg=_base_.by_day))
test_dataloader = _base_.at_dusk
