"""Label maps, and their pixels by class."""

import pytest

from mmseg_semflow.datasets.label_maps import LabelMaps
from tiny import META


def maps_of(street, num_classes=5, **kwargs):
    return LabelMaps(
        dict(
            type='mmseg.BaseSegDataset',
            metainfo=META,
            data_root=str(street),
            data_prefix=dict(
                img_path='img_dir/train', seg_map_path='ann_dir/train'),
            **kwargs), num_classes)


def test_counts_are_those_of_the_files(shared_street):
    maps = maps_of(shared_street)
    assert maps.counts.shape == (6, 5)
    # Of each of 24 x 32 pixels 6 are void.
    assert (maps.counts.sum(1) == 24 * 32 - 6).all()
    for index in range(6):
        for label in range(5):
            assert maps.counts[index, label] == (maps[index] == label).sum()


def test_labels_are_those_that_mmsegmentation_trains_on(shared_street):
    """With reduce_zero_label the first label is void and all others one less."""
    plain, reduced = maps_of(shared_street), maps_of(
        shared_street, reduce_zero_label=True)
    assert ((plain[0] == 0) <= (reduced[0] == 255)).all()
    assert ((plain[0] == 3) == (reduced[0] == 2)).all()


def test_a_mask_of_another_label_set_is_named(shared_street):
    with pytest.raises(
            ValueError, match=r'train/\d.png has the labels \[3.*be below 3, or 255'):
        maps_of(shared_street, 3).counts  # noqa: B018


def test_no_dataset_of_mmsegmentation(shared_street):
    with pytest.raises(ValueError, match='a BaseSegDataset, but got list'):
        LabelMaps([], 5)
