"""Masks made of masks."""

import cv2
import numpy as np
import pytest

from mmseg_semflow.datasets.label_maps import LabelMaps, class_pixels
from mmseg_semflow.datasets.mask_choice import EveryMaskChoice, RareClassChoice
from mmseg_semflow.datasets.seeded import PASTE_CHOICE
from mmseg_semflow.generation.views import (
    MaskViews,
    enlarge,
    place_crop,
)
from tiny import street_dataset


@pytest.fixture
def label_maps(shared_street):
    return LabelMaps(street_dataset(shared_street), 5)


def test_without_scale_and_flip_a_view_is_the_map(label_maps):
    choice = EveryMaskChoice(label_maps.counts, 1)
    views = MaskViews(label_maps, choice, (24, 32), flip=0.)
    for number in range(6):
        view = views(number)
        index = view.record['index']
        np.testing.assert_array_equal(view.label_map, label_maps[index])
        assert view.record['source'] == label_maps.path(index).name
        assert not view.record['flipped'] and view.record['pasted'] == []
    mirrored = MaskViews(label_maps, choice, (24, 32), flip=1.)(0)
    np.testing.assert_array_equal(mirrored.label_map[:, ::-1], views(0).label_map)
    assert mirrored.record['flipped']


def test_a_view_is_the_recorded_crop_of_the_recorded_scale(label_maps):
    choice = RareClassChoice(label_maps.counts, 2, 1e6)
    views = MaskViews(label_maps, choice, (16, 16), (1., 2.))
    scales = []
    for number in range(20):
        view = views(number)
        record = view.record
        label_map = label_maps[record['index']]
        if record['flipped']:
            label_map = label_map[:, ::-1]
        label_map = enlarge(label_map, (16, 16), record['scale'])
        top, left, height, width = record['crop']
        np.testing.assert_array_equal(
            view.label_map, label_map[top:top + height, left:left + width])
        assert (view.label_map == record['chosen_for']).mean() >= 0.01
        scales.append(record['scale'])
    assert 1 <= min(scales) < 1.3 and 1.7 < max(scales) <= 2


def test_views_depend_on_seed_and_number_alone(label_maps):

    def make(seed, numbers):
        rare = RareClassChoice(label_maps.counts, seed, 1e6)
        views = MaskViews(
            label_maps, rare, (16, 24), (1., 1.5), paste=2, paste_from=rare)
        return {number: views(number) for number in numbers}

    one, same, other = make(1, range(8)), make(1, [7, 3, 0]), make(2, range(8))
    for number, view in same.items():
        assert view.record == one[number].record
        np.testing.assert_array_equal(view.label_map, one[number].label_map)
    assert [view.record for view in other.values()] != [
        view.record for view in one.values()]


@pytest.mark.parametrize('size', [(10, 30), (30, 10), (7, 7)])
def test_enlarged_maps_just_cover_the_size(size):
    label_map = np.arange(12 * 16, dtype=np.uint8).reshape(12, 16)
    sides = enlarge(label_map, size, 1.).shape
    assert all(a >= b for a, b in zip(sides, size, strict=True))
    assert any(a == b for a, b in zip(sides, size, strict=True))


def test_a_crop_finds_its_class():
    label_map = np.zeros((60, 80), np.uint8)
    label_map[50:52, 70:72] = 3
    rng = np.random.default_rng(0)
    for _ in range(20):
        top, left = place_crop(label_map, (10, 10), 3, rng)
        assert (label_map[top:top + 10, left:left + 10] == 3).sum() == 4
        assert 0 <= top <= 50 and 0 <= left <= 70


class Picks:
    """In place of a generator, what it would draw."""

    def __init__(self, picks):
        self.picks = list(picks)

    def integers(self, end):
        assert self.picks[0] < end
        return self.picks.pop(0)


def spots(*sizes, side=60):
    """A map with spots of class 3, of so many pixels in a row; crops see but one."""
    label_map = np.zeros((side * len(sizes), 200), np.uint8)
    for number, size in enumerate(sizes):
        label_map[side * number + side // 2, 100:100 + size] = 3
    return label_map


@pytest.mark.parametrize('bad', range(10))
def test_a_crop_is_drawn_again_until_its_class_fills_a_hundredth(bad):
    """Of 20 x 20 pixels 3 are too few, 4 are enough."""
    label_map = spots(3, 4)
    rng = Picks([*[0] * bad, 3, *[0] * 10])
    top, left = place_crop(label_map, (20, 20), 3, rng)
    assert (label_map[top:top + 20, left:left + 20] == 3).sum() == 4
    assert len(rng.picks) == 10


def test_after_ten_crops_the_best_is_taken():
    label_map = spots(1, 3, 2, 4)
    for picks, best in (([0, 0, 2, *[4] * 7, 6], 3), ([*[0] * 10, 6], 1)):
        rng = Picks(picks)
        top, left = place_crop(label_map, (20, 20), 3, rng)
        assert (label_map[top:top + 20, left:left + 20] == 3).sum() == best
        assert rng.picks == [6]


def test_flips_swap_left_and_right(label_maps):
    choice = EveryMaskChoice(label_maps.counts, 1)
    plain = MaskViews(label_maps, choice, (24, 32), flip=1.)(0).label_map
    swapped = MaskViews(
        label_maps, choice, (24, 32), flip=1., swap_labels=[(1, 2), (0, 4)])(0)
    expected = np.array([4, 2, 1, 3, 0, *range(5, 256)])[plain]
    np.testing.assert_array_equal(swapped.label_map, expected)


def test_crops_of_a_flip_show_what_it_made_of_their_class(tmp_path):
    """Left becomes right, on maps that hold the left one alone."""
    for kind in ('img_dir', 'ann_dir'):
        (tmp_path / kind / 'train').mkdir(parents=True)
    labels = np.zeros((24, 80), np.uint8)
    labels[4:8, 60:64] = 1
    cv2.imwrite(str(tmp_path / 'ann_dir/train/0.png'), labels)
    cv2.imwrite(str(tmp_path / 'img_dir/train/0.jpg'), labels)
    label_maps = LabelMaps(street_dataset(tmp_path), 5)
    choice = RareClassChoice(label_maps.counts, classes=[1])
    for flip, label in ((0., 1), (1., 2)):
        views = MaskViews(
            label_maps, choice, (8, 8), flip=flip, swap_labels=[(1, 2), (3, 4)],
            scale=(2., 2.))
        for number in range(20):
            view = views(number)
            assert view.record['chosen_for'] == label
            assert (view.label_map == label).mean() >= 0.01


@pytest.mark.parametrize('paste', [1, 3])
def test_pasted_objects_are_of_others_and_in_the_record(label_maps, paste):
    views = MaskViews(
        label_maps, RareClassChoice(label_maps.counts, 0, 1e6), (24, 32),
        paste=paste, paste_from=RareClassChoice(
            label_maps.counts, 0, 1e6, kind=PASTE_CHOICE))
    changed = 0
    for number in range(20):
        view = views(number)
        assert all(pasted['source'] != view.record['source']
                   for pasted in view.record['pasted'])
        pixels = class_pixels(view.label_map, 5)
        same = (pixels == label_maps.counts[view.record['index']]).all()
        assert same or view.record['pasted']
        changed += not same
        for pasted in view.record['pasted']:
            assert set(pasted) == {'source', 'label', 'shift'}
    assert changed


def test_objects_are_of_the_classes_that_are_chosen_for_pasting(label_maps):
    """Whatever the masks are chosen for."""
    views = MaskViews(
        label_maps, RareClassChoice(label_maps.counts, classes=[0]), (24, 32), paste=2,
        paste_from=RareClassChoice(label_maps.counts, classes=[3], kind=PASTE_CHOICE))
    records = [views(number).record for number in range(20)]
    assert {record['chosen_for'] for record in records} == {0}
    assert {pasted['label'] for record in records for pasted in record['pasted']} == {3}


@pytest.mark.parametrize('kwargs, match', [
    (dict(scale=(0.5, 1)), r'factors from 1 on, but got \(0.5, 1\)'),
    (dict(scale=(2, 1)), r'factors from 1 on, but got \(2, 1\)'),
    (dict(flip=2), r'flip must be in \[0, 1\], but got 2'),
    (dict(paste=-1), 'paste must be >= 0'),
    (dict(paste=1), 'needs paste_from'),
])
def test_wrong_arguments(label_maps, kwargs, match):
    with pytest.raises(ValueError, match=match):
        MaskViews(label_maps, EveryMaskChoice(label_maps.counts), (24, 32), **kwargs)
