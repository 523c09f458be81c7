"""Objects of one picture in another."""

import numpy as np
import pytest
from mmseg.registry import DATASETS, TRANSFORMS

from mmseg_semflow.datasets.pasting import find_place
from tiny import street_dataset


def street_of(label, ground, columns):
    """Sky, then a road of classes by columns, and an object on it."""
    label_map = np.zeros((20, 40), np.uint8)
    label_map[12:] = ground
    label_map[9:13, columns] = label
    return label_map


def test_pasted_objects_keep_size_and_rows_and_stand_on_what_they_stood_on():
    donor = street_of(5, 1, slice(3, 6))
    target = np.zeros((20, 40), np.uint8)
    target[12:, :20], target[12:, 20:] = 2, 1
    rng = np.random.default_rng(0)
    shifts = set()
    for _ in range(30):
        place = find_place(target, donor, 5, rng)
        if place is None:
            continue
        found, shift = place.paste(target, donor), place.shift
        rows, columns = np.nonzero(found == 5)
        assert set(rows) == {9, 10, 11, 12} and len(rows) == 12
        assert columns.min() == 3 + shift
        # On the road, at least by half, and nothing else has changed.
        assert columns.min() >= 19
        np.testing.assert_array_equal(found[found != 5], target[found != 5])
        shifts.add(shift)
    assert len(shifts) > 5
    assert not (target == 5).any()


def test_what_stands_nearer_stays_before_a_pasted_object():
    donor = street_of(5, 1, slice(0, 40))
    target = np.zeros((20, 40), np.uint8)
    target[12:] = 1
    target[10:15, 10:20] = 7  # nearer: its feet are two rows lower
    target[5:12, 30:35] = 8  # farther
    found = find_place(target, donor, 5, np.random.default_rng(0)).paste(target, donor)
    np.testing.assert_array_equal(found[10:15, 10:20], 7)
    assert (found[9:12, 30:35] == 5).all()
    assert (found[9:13, :10] == 5).all()


def test_nothing_is_pasted_where_nothing_stands():
    donor = street_of(5, 1, slice(3, 6))
    rng = np.random.default_rng(0)
    assert find_place(np.full_like(donor, 2), donor, 5, rng) is None
    assert find_place(donor, np.zeros_like(donor), 5, rng) is None
    # It touches the lower border: what it stands on is not known.
    assert find_place(donor, np.full_like(donor, 5), 5, rng) is None


def test_pictures_are_pasted_as_their_labels_are():
    donor, target = street_of(5, 1, slice(3, 6)), street_of(6, 1, slice(30, 33))
    place = find_place(target, donor, 5, np.random.default_rng(1))
    rng = np.random.default_rng(0)
    image, other = (rng.integers(0, 256, (20, 40, 3)) for _ in range(2))
    labels, pixels = place.paste(target, donor), place.paste(image, other)
    pasted = labels == 5
    assert pasted.sum() == 12
    np.testing.assert_array_equal(pixels[~pasted], image[~pasted])
    np.testing.assert_array_equal(
        pixels[pasted], other[np.roll(pasted, -place.shift, 1)])


@pytest.fixture
def mixed(shared_street):
    return DATASETS.build(
        dict(
            type='mmseg.MultiImageMixDataset',
            dataset=street_dataset(
                shared_street,
                pipeline=[
                    dict(type='LoadImageFromFile'),
                    dict(type='LoadAnnotations')
                ]),
            pipeline=[
                dict(type='PasteRareObjects', num_objects=3, temperature=1e6),
                dict(type='PackSegInputs')
            ]))


def test_mmsegmentation_mixes_them(mixed):
    """Pixels of new labels are another picture's, all others are left."""
    changed = 0
    np.random.seed(0)
    for index in [*range(6)] * 5:
        plain = mixed.dataset[index]
        item = mixed[index]
        labels = item['data_samples'].gt_sem_seg.data[0].numpy()
        image = item['inputs'].numpy().transpose(1, 2, 0)
        same = (image == plain['img']).all(2)
        assert (labels == plain['gt_seg_map'])[same].mean() > 0.9
        changed += (labels != plain['gt_seg_map']).any()
        assert set(np.unique(labels)) <= {*range(5), 255}
    assert changed > 2
    np.random.seed(0)
    again = [mixed[index]['inputs'].numpy().tobytes() for index in range(6)]
    np.random.seed(0)
    assert again == [mixed[index]['inputs'].numpy().tobytes() for index in range(6)]


def test_no_objects_to_paste():
    with pytest.raises(ValueError, match='num_objects must be >= 1, but got 0'):
        TRANSFORMS.build(dict(type='PasteRareObjects', num_objects=0))
