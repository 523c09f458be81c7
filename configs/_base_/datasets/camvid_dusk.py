# CamVid parted by light: the 62 training pictures of 0001TP were taken at dusk, all
# others by day. A config upon one of CamVid's and this file sets filter_cfg of its
# training set to `by_day`, and
#   test_dataloader = _base_.at_dusk
by_day = dict(sequences=['0006R0', '0016E5'])
at_dusk = dict(
    dataset=dict(
        filter_cfg=dict(sequences=['0001TP']),
        data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train')))
