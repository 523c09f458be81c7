# CamVid parted by drives: trained on two, one of them at dusk, tested on all
# pictures of the third, which makes up most of the usual train and all of val.
# A config upon one of CamVid's and this file sets filter_cfg of its training set to
# `training_drives`, and
#   test_dataloader = _base_.unseen_drive
training_drives = dict(sequences=['0001TP', '0006R0'])
unseen_drive = dict(
    dataset=dict(
        filter_cfg=dict(sequences=['0016E5']),
        # Read with their folders: train and val.
        data_prefix=dict(img_path='img_dir', seg_map_path='ann_dir')))
