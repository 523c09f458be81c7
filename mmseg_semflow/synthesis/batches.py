"""Batches of one size."""

from typing import Callable, Dict, Iterable, Iterator, List, TypeVar

Item = TypeVar('Item')
# How many items wait, at most, for others of their size.
MAX_WAITING = 64


def batches_of_one_size(items: Iterable[Item], size_of: Callable[[Item], tuple],
                        batch_size: int) -> Iterator[List[Item]]:
    """Gather items of one size, whatever stands between them.

    Which items share a batch follows from the items alone. Where they are of
    many sizes some batches are not full, so that few of them wait.

    Args:
        items (Iterable): The items, read one by one.
        size_of (Callable): Tells the size of an item.
        batch_size (int): Largest number of items in a batch.

    Yields:
        List: Items of one size, in their order.
    """
    waiting: Dict[tuple, List[Item]] = {}
    for item in items:
        size = size_of(item)
        waiting.setdefault(size, []).append(item)
        if len(waiting[size]) == batch_size:
            yield waiting.pop(size)
        elif sum(map(len, waiting.values())) > MAX_WAITING:
            yield waiting.pop(next(iter(waiting)))
    yield from waiting.values()
