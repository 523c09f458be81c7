"""Batches of one size."""

import random
from itertools import chain

import pytest

from mmseg_semflow.synthesis import batches
from mmseg_semflow.synthesis.batches import batches_of_one_size


@pytest.mark.parametrize('batch_size', [1, 2, 3, 50])
def test_every_item_once_and_one_size_per_batch(batch_size):
    """Whatever the sizes, and with fewer part-filled batches than sizes."""
    sizes = random.Random(0).choices(range(4), k=41)
    items = list(enumerate(sizes))
    found = list(
        batches_of_one_size(items, lambda item: (item[1], ), batch_size))
    assert sorted(chain(*found)) == items
    for batch in found:
        assert len({size for _, size in batch}) == 1
        assert batch == sorted(batch) and len(batch) <= batch_size
    assert sum(len(batch) < batch_size for batch in found) <= 4


def test_batches_of_one_keep_the_order():
    items = [3, 1, 3, 2, 1]
    assert list(batches_of_one_size(items, lambda i: (i, ), 1)) == [
        [item] for item in items]


def test_few_items_wait(monkeypatch):
    """Of a hundred sizes, none is read further ahead than is allowed."""
    monkeypatch.setattr(batches, 'MAX_WAITING', 5)
    read = []

    def items():
        for i in range(100):
            read.append(i)
            yield i

    done = 0
    for batch in batches_of_one_size(items(), lambda i: (i, ), 4):
        # The one that has waited longest.
        assert batch == [done]
        done += 1
        assert len(read) - done <= 5
    assert done == 100
