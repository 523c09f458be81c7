"""Samples that are a function of the seed and of their place in training."""

import random
from contextlib import contextmanager
from functools import lru_cache
from itertools import count
from typing import Any, Dict, Iterator, NamedTuple, Sequence, Sized, Union

import numpy as np
import torch
from mmengine.dist import get_dist_info
from mmengine.registry import DATA_SAMPLERS, DATASETS
from torch.utils.data import Dataset, Sampler

from .unreadable import UnreadableImageError, naming_damaged_files

# What a draw is for, so that no two kinds of draws share their numbers.
(ORDER, SAMPLE, ITERATION, VIEW, MASK_CHOICE, MASK_VIEW, PASTE_CHOICE,
 CORRUPTION) = range(8)


def seed_generators(*key: int) -> None:
    """Seed the generators of Python, NumPy and torch, on the CPU and GPUs.

    ``torch.manual_seed`` would take a hundred times as long.

    Args:
        *key (int): Numbers of 0 or more. The first is the kind of draw,
            which settles how many follow. Different keys give independent
            draws.
    """
    python, numpy, pytorch = np.random.SeedSequence(key).generate_state(3)
    random.seed(int(python))
    np.random.seed(numpy)
    torch.default_generator.manual_seed(int(pytorch))
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(int(pytorch))


@contextmanager
def seeded_generators(*key: int) -> Iterator[None]:
    """Seed the generators, and put them back as they were at the end.

    Args:
        *key (int): See :func:`seed_generators`.
    """
    python, numpy = random.getstate(), np.random.get_state()
    try:
        gpus = torch.cuda.device_count() if torch.cuda.is_initialized() else 0
        with torch.random.fork_rng(devices=range(gpus)):
            seed_generators(*key)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


class Draw(NamedTuple):
    """One drawn sample.

    Args:
        index (int): Index in the dataset.
        seed (int): Seed of the training.
        position (int): Number of samples drawn before, by all ranks.
    """

    index: int
    seed: int
    position: int


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    sequence = np.random.SeedSequence((ORDER, seed, epoch))
    return np.random.default_rng(sequence).permutation(size)


@DATA_SAMPLERS.register_module()
class SeededSampler(Sampler):
    """An InfiniteSampler that can start anywhere, without what lies before.

    The samples are numbered over all ranks and epochs; rank r of R takes the
    positions r, r + R, .. from ``start`` on. Every epoch is a permutation of
    the dataset by (seed, epoch).

    Args:
        dataset (Sized): The dataset.
        seed (int): Seed of the training, the same on all ranks.
        shuffle (bool): Whether to permute. Defaults to True.

    Attributes:
        start (int): Position of the first sample, of rank 0. Defaults to 0.
    """

    def __init__(self, dataset: Sized, seed: int, shuffle: bool = True) -> None:
        self.dataset = dataset
        self.seed = seed
        self.shuffle = shuffle
        self.start = 0

    def __iter__(self) -> Iterator[Draw]:
        """Draw without end."""
        rank, world_size = get_dist_info()
        for position in count(self.start + rank, world_size):
            yield Draw(self.index_at(position), self.seed, position)

    def index_at(self, position: int) -> int:
        """Tell which sample of the dataset is drawn at a position."""
        size = len(self.dataset)
        epoch, index = divmod(position, size)
        if self.shuffle:
            index = int(_permutation(self.seed, epoch, size)[index])
        return index

    def __len__(self) -> int:
        return len(self.dataset)


@DATASETS.register_module()
class SeededDataset(Dataset):
    """Samples of a dataset that depend on nothing but what is drawn.

    Before a sample passes its pipeline, the generators are seeded by (seed,
    position): neither the number of workers nor what they did before matters.

    In place of an unreadable image or label map stands the next one of the
    dataset. Its data sample lists what was skipped, as ``unreadable``.

    Args:
        dataset (dict | Dataset): The dataset, or its config.
        max_unreadable (int): How many files in a row may be unreadable before
            it is an error. Defaults to 0.
    """

    def __init__(self,
                 dataset: Union[dict, Dataset],
                 max_unreadable: int = 0) -> None:
        if isinstance(dataset, dict):
            dataset = DATASETS.build(dataset)
        self.dataset = dataset
        self.max_unreadable = max_unreadable

    @property
    def metainfo(self) -> Dict[str, Any]:
        """dict: Classes and palette."""
        return self.dataset.metainfo

    def full_init(self) -> None:
        """Read the list of files, before workers are started."""
        self.dataset.full_init()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: Draw) -> dict:
        """Make a sample.

        Args:
            draw (Draw): What a :class:`SeededSampler` draws.

        Returns:
            dict: What the pipeline returns.

        Raises:
            UnreadableImageError: If too many files in a row are unreadable.
        """
        unreadable = []
        # One more than may be skipped, so that the loop learns of too many.
        for step in range(min(self.max_unreadable + 2, len(self))):
            seed_generators(SAMPLE, draw.seed, draw.position)
            index = (draw.index + step) % len(self)
            try:
                with naming_damaged_files():
                    sample = self.dataset[index]
            except UnreadableImageError as error:
                unreadable.append(str(error))
                continue
            if unreadable:
                sample['data_samples'].set_metainfo(dict(unreadable=unreadable))
            return sample
        raise UnreadableImageError(too_many(unreadable, self.max_unreadable))


def too_many(unreadable: Sequence[str], limit: int) -> str:
    """Say that more files are unreadable than may be.

    Args:
        unreadable (Sequence[str]): Messages, each naming a file.
        limit (int): How many may be.

    Returns:
        str: The message of an error.
    """
    return (f'{len(unreadable)} images or label maps cannot be read, more than '
            f'train_cfg.max_unreadable={limit}: mend or remove\n  ' +
            '\n  '.join(unreadable))
