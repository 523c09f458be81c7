"""Which masks to take: rare classes more often, or each of them."""

from abc import ABC, abstractmethod
from typing import List, Optional, Sequence, Tuple

import numpy as np

from .seeded import MASK_CHOICE

# DGInStyle: an image counts for a class with more than 3000 of 512 x 512 pixels.
MIN_SHARE = 3000 / 512**2


def numbers_of(kind: int, seed: int, number: int) -> np.random.Generator:
    """Make the source of randomness of one draw: of a kind, a seed, a number."""
    return np.random.default_rng(np.random.SeedSequence((kind, seed, number)))


def labels_of(names: Optional[Sequence[str]],
              classes: Sequence[str]) -> Optional[List[int]]:
    """Find the labels of classes by their names; None for None.

    Raises:
        ValueError: If there is no such class.
    """
    for name in names or ():
        if name not in classes:
            raise ValueError(
                f'classes must be of {", ".join(classes)}, but got {name!r}')
    return None if names is None else [list(classes).index(name) for name in names]


def labelled_maps(counts: np.ndarray) -> np.ndarray:
    """Tell which maps have a labelled pixel: indices, by counts of shape (N, K)."""
    return np.flatnonzero(counts.sum(1))


class MaskChoice(ABC):
    """Which label map the picture of a number is made from.

    Args:
        counts (np.ndarray): Pixels of every class in every map, shape (N, K).
        seed (int): Seed of the set, at least 0.
        kind (int): What it is for, so that two of one seed draw other numbers.
            Defaults to ``MASK_CHOICE``.

    Attributes:
        most (int, optional): How many pictures it has maps for; None, any number.
    """

    most: Optional[int] = None

    def __init__(self,
                 counts: np.ndarray,
                 seed: int = 0,
                 kind: int = MASK_CHOICE) -> None:
        if seed < 0:
            raise ValueError(f'seed must be >= 0, but got {seed}')
        self.counts = counts
        self.seed = seed
        self.kind = kind

    @abstractmethod
    def __call__(self, number: int) -> Tuple[int, Optional[int]]:
        """Choose.

        Args:
            number (int): Which picture of the set, from 0.

        Returns:
            Tuple[int, Optional[int]]: Which map, and the class for which it
            was chosen, on which its crop is then centred; None, all of it.
        """

    def check(self, num_images: int) -> None:
        """Raise a ValueError if it has not so many masks."""
        if num_images < 1:
            raise ValueError(f'num_images must be >= 1, but got {num_images}')
        if self.most is not None and num_images > self.most:
            raise ValueError(
                f'{num_images} pictures were asked for, but the masks give '
                f'{self.most} without repetition: ask for fewer, or choose by rare '
                'classes, which repeats masks in other crops (--choose rare)')


class RareClassChoice(MaskChoice):
    r"""Choose rare classes more often, and then a map that shows much of one.

    .. math:: p(c) = \mathrm{softmax}((1 - f_c) / T)

    with :math:`f_c` the share of class c of all labelled pixels (DAFormer,
    CVPR 2022; DGInStyle, ECCV 2024). Classes that occur nowhere are not chosen.
    Maps of a class are those with at least ``min_share`` of their pixels of it,
    or, where none has so many, those with the most.

    Args:
        counts (np.ndarray): Pixels of every class in every map, shape (N, K).
        seed (int): Seed of the set. Defaults to 0.
        temperature (float): T: the smaller, the rarer classes. Defaults to
            0.01.
        min_share (float): In [0, 1], of the labelled pixels of a map. Defaults
            to 3000 of 512 x 512.
        classes (Sequence[int], optional): The only classes to choose. Defaults
            to None, all.
        kind (int): See :class:`MaskChoice`. Defaults to ``MASK_CHOICE``.

    Raises:
        ValueError: If an argument breaks its rule, or no map holds one of
            ``classes``.
    """

    def __init__(self,
                 counts: np.ndarray,
                 seed: int = 0,
                 temperature: float = 0.01,
                 min_share: float = MIN_SHARE,
                 classes: Optional[Sequence[int]] = None,
                 kind: int = MASK_CHOICE) -> None:
        super().__init__(counts, seed, kind)
        if not temperature > 0:
            raise ValueError(f'temperature must be > 0, but got {temperature}')
        if not 0 <= min_share <= 1:
            raise ValueError(f'min_share must be in [0, 1], but got {min_share}')
        totals = counts.sum(0)
        for label in classes or ():
            if not 0 <= label < len(totals):
                raise ValueError(f'classes must be of 0 to {len(totals) - 1}, but '
                                 f'got {label}')
            if not totals[label]:
                raise ValueError(f'none of {len(counts)} masks holds the class '
                                 f'{label}, which classes names')
        chosen = np.isin(np.arange(len(totals)), classes) if classes else totals > 0
        if not chosen.any():
            raise ValueError('the masks hold no labelled pixel')
        scores = np.where(chosen, (1 - totals / totals.sum()) / temperature, -np.inf)
        weights = np.exp(scores - scores.max())
        self.probabilities = weights / weights.sum()
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        needed = np.minimum(min_share, shares.max(0))
        self._maps = [
            np.flatnonzero((share >= least) & (share > 0))
            for share, least in zip(shares.T, needed, strict=True)
        ]

    def __call__(self, number: int) -> Tuple[int, Optional[int]]:
        """See :meth:`MaskChoice.__call__`."""
        rng = numbers_of(self.kind, self.seed, number)
        label = int(rng.choice(len(self.probabilities), p=self.probabilities))
        return int(rng.choice(self._maps[label])), label


class EveryMaskChoice(MaskChoice):
    """Choose every map as often as its weight says, in an order of the seed.

    Maps without a labelled pixel, damaged ones too, are left out.

    Args:
        counts (np.ndarray): Pixels of every class in every map, shape (N, K).
        seed (int): Seed of the set. Defaults to 0.
        times (Sequence[int], optional): How often each of :func:`labelled_maps`,
            see :func:`times_by_hardness`. Defaults to None, once.
    """

    def __init__(self,
                 counts: np.ndarray,
                 seed: int = 0,
                 times: Optional[Sequence[int]] = None) -> None:
        super().__init__(counts, seed)
        maps = np.repeat(labelled_maps(counts), 1 if times is None else times)
        self._maps = numbers_of(self.kind, seed, 0).permutation(maps)
        self.most = len(maps)

    def __call__(self, number: int) -> Tuple[int, Optional[int]]:
        """See :meth:`MaskChoice.__call__`."""
        return int(self._maps[number]), None


def times_by_hardness(hardness: Sequence[float], most: int = 20) -> np.ndarray:
    r"""Tell how many pictures to draw of every mask (FreeMask, Sec. 3.4).

    .. math:: \min(1 + \mathrm{round}(20 i / N), 20)

    for the i-th of N masks, from the easiest, i = 1.

    Args:
        hardness (Sequence[float]): Of every mask, see
            :meth:`LossFilter.hardness`.
        most (int): The largest number. Defaults to 20.

    Returns:
        np.ndarray: int64, shape (N, ).
    """
    ranks = np.empty(len(hardness), np.int64)
    ranks[np.argsort(hardness, kind='stable')] = np.arange(1, len(hardness) + 1)
    return np.minimum(1 + np.round(most * ranks / len(hardness)), most).astype(
        np.int64)
