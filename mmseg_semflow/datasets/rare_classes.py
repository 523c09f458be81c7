"""Training that sees rare classes more often."""

from typing import Any, Optional, Sequence, Sized

from mmengine.registry import DATA_SAMPLERS

from .cached_latents import CachedLatentsDataset
from .label_maps import LabelMaps
from .mask_choice import MIN_SHARE, RareClassChoice, labels_of
from .seeded import SeededDataset, SeededSampler


@DATA_SAMPLERS.register_module()
class RareClassSampler(SeededSampler):
    """Draw images with much of a rare class more often, see RareClassChoice.

    A function of seed and position like its base, so that a training resumes
    exactly. Every process reads all label maps once, at its start. In a config
    ``train_dataloader = dict(sampler=dict(type='RareClassSampler'))``.

    Args:
        dataset (Sized): A dataset of mmsegmentation, several concatenated, or
            their cached latents.
        seed (int): Seed of the training, the same on all ranks.
        temperature (float): The smaller, the rarer classes. Defaults to 0.01.
        min_share (float): See :class:`RareClassChoice`. Defaults to 3000 of
            512 x 512.
        classes (Sequence[str], optional): Names of the only classes to draw.
            Defaults to None, all.
        shuffle (bool): Must be True, for configs that set it. Defaults to True.

    Raises:
        ValueError: If an argument breaks its rule.
    """

    def __init__(self,
                 dataset: Sized,
                 seed: int,
                 temperature: float = 0.01,
                 min_share: float = MIN_SHARE,
                 classes: Optional[Sequence[str]] = None,
                 shuffle: bool = True) -> None:
        if not shuffle:
            raise ValueError('RareClassSampler draws at random: shuffle must be True, '
                             f'but got {shuffle}')
        super().__init__(dataset, seed, shuffle)
        inner: Any = dataset
        while isinstance(inner, (SeededDataset, CachedLatentsDataset)):
            inner = inner.dataset
        names = list(dataset.metainfo['classes'])
        labels = labels_of(classes, names)
        maps = LabelMaps(inner, len(names), getattr(inner, 'ignore_index', 255))
        maps.check_held(labels, names)
        self.choice = RareClassChoice(
            maps.counts, seed, temperature, min_share, labels)

    def index_at(self, position: int) -> int:
        """See :meth:`SeededSampler.index_at`."""
        self.choice.seed = self.seed
        return self.choice(position)[0]
