"""Which masks: frequencies in closed form, and a function of seed and number."""

import numpy as np
import pytest

from mmseg_semflow.datasets.mask_choice import (
    EveryMaskChoice,
    RareClassChoice,
    times_by_hardness,
)

# Four maps of 100 labelled pixels; class 3 occurs nowhere.
COUNTS = np.array([[90, 10, 0, 0], [60, 40, 0, 0], [99, 0, 1, 0], [50, 30, 20, 0]])


def draws(choice, count=4000):
    return np.array([choice(number) for number in range(count)])


def test_classes_are_drawn_by_the_softmax_of_their_rarity():
    temperature = 0.3
    choice = RareClassChoice(COUNTS, temperature=temperature)
    shares = np.array([299, 80, 21]) / 400
    expected = np.exp((1 - shares) / temperature)
    expected /= expected.sum()
    np.testing.assert_allclose(choice.probabilities, [*expected, 0])

    labels = draws(choice)[:, 1]
    found = np.bincount(labels, minlength=4)[:3] / len(labels)
    deviation = np.sqrt(expected * (1 - expected) / len(labels))
    assert (abs(found - expected) < 4 * deviation).all()


@pytest.mark.parametrize('temperature, expected', [
    (1e-4, [0, 0, 1, 0]),
    (1e6, [1 / 3, 1 / 3, 1 / 3, 0]),
])
def test_temperature_from_the_rarest_class_to_all_alike(temperature, expected):
    choice = RareClassChoice(COUNTS, temperature=temperature)
    np.testing.assert_allclose(choice.probabilities, expected, atol=1e-5)


def test_maps_show_enough_of_the_class_and_all_of_these_are_drawn():
    choice = RareClassChoice(COUNTS, temperature=1e6, min_share=0.15)
    chosen = {label: set() for label in range(3)}
    for index, label in draws(choice, 400):
        chosen[label].add(index)
    assert chosen == {0: {0, 1, 2, 3}, 1: {1, 3}, 2: {3}}


def test_where_no_map_shows_enough_that_with_the_most_is_taken():
    choice = RareClassChoice(COUNTS, min_share=0.5, classes=[2])
    assert {tuple(draw) for draw in draws(choice, 50)} == {(3, 2)}


def test_only_the_named_classes():
    choice = RareClassChoice(COUNTS, temperature=1e6, classes=[0, 2])
    np.testing.assert_allclose(choice.probabilities, [0.5, 0, 0.5, 0], atol=1e-5)


def test_a_draw_depends_on_seed_and_number_alone():
    one, same, other = (RareClassChoice(COUNTS, seed, 1e6) for seed in (3, 3, 4))
    backwards = [same(number) for number in reversed(range(100))][::-1]
    assert [one(number) for number in range(100)] == backwards
    assert [other(number) for number in range(100)] != backwards


def test_every_mask_as_often_as_asked_for():
    once = EveryMaskChoice(COUNTS, 5)
    assert sorted(once(number) for number in range(4)) == [
        (index, None) for index in range(4)
    ]
    assert once.most == 4
    often = EveryMaskChoice(COUNTS, 5, times=[1, 0, 3, 2])
    assert often.most == 6
    assert sorted(often(number)[0] for number in range(6)) == [0, 2, 2, 2, 3, 3]


def test_hard_masks_are_drawn_more_often():
    """FreeMask: min(1 + round(20 i / N), 20) for the i-th from the easiest."""
    hardness = np.random.default_rng(0).permutation(40)
    found = times_by_hardness(hardness)
    expected = [min(1 + round(20 * (rank + 1) / 40), 20) for rank in hardness]
    assert found.tolist() == expected
    assert found.max() == 20 and found.min() == 1


@pytest.mark.parametrize('kwargs, match', [
    (dict(temperature=0), 'temperature must be > 0, but got 0'),
    (dict(temperature=float('nan')), 'temperature must be > 0, but got nan'),
    (dict(min_share=1.5), r'min_share must be in \[0, 1\], but got 1.5'),
    (dict(seed=-1), 'seed must be >= 0, but got -1'),
    (dict(classes=[4]), 'classes must be of 0 to 3, but got 4'),
    (dict(classes=[3]), 'none of 4 masks holds the class 3'),
])
def test_wrong_arguments(kwargs, match):
    with pytest.raises(ValueError, match=match):
        RareClassChoice(COUNTS, **kwargs)
