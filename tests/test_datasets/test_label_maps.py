"""Label maps, and their pixels by class."""

import numpy as np
import pytest

from mmseg_semflow.datasets.label_maps import LabelMaps
from mmseg_semflow.datasets.unreadable import UnreadableImageError
from tiny import street_dataset


def maps_of(street, num_classes=5, **kwargs):
    return LabelMaps(street_dataset(street, **kwargs), num_classes)


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


def test_concatenated_datasets(shared_street):
    one = maps_of(shared_street)
    both = LabelMaps(
        dict(
            type='mmengine.ConcatDataset',
            datasets=[
                dict(type='RepeatDataset', times=2, dataset=one.dataset), one.dataset
            ]), 5)
    assert (both.counts == np.concatenate([one.counts] * 3)).all()
    assert both.path(13) == one.path(1)


def test_damaged_maps_are_named_and_counted_as_nothing(street):
    path = street / 'ann_dir/train/3.png'
    path.write_bytes(b'no picture')
    maps = maps_of(street)
    index, = (i for i in range(6) if maps.path(i) == path)
    with pytest.raises(UnreadableImageError, match='3.png cannot be read'):
        maps[index]
    assert maps.counts[index].sum() == 0 and maps.counts.sum() == 5 * (24 * 32 - 6)


def test_no_dataset_of_mmsegmentation(shared_street):
    with pytest.raises(ValueError, match='concatenated, but got list'):
        LabelMaps([], 5)
