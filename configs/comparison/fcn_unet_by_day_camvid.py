# FCN-UNet on CamVid's pictures of the day, tested at dusk.
_base_ = ['./fcn_unet_camvid.py', '../_base_/datasets/camvid_dusk.py']
train_dataloader = dict(dataset=dict(filter_cfg=_base_.by_day))
test_dataloader = _base_.at_dusk
