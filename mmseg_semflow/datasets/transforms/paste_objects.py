"""Copy and paste of objects of rare classes."""

from typing import Dict, List, Optional

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS

from ..label_maps import LabelMaps
from ..mask_choice import RareClassChoice
from ..pasting import find_place


@TRANSFORMS.register_module()
class PasteRareObjects(BaseTransform):
    """Paste objects of rare classes of other pictures, in the right perspective.

    Copy-paste (Ghiasi et al., CVPR 2021) without generating anything: classes and
    pictures are chosen as :class:`RareClassChoice` does, places as
    :func:`find_place` does. A transform of mmsegmentation's
    ``MultiImageMixDataset``, whose dataset loads images and labels and leaves their
    size alone; pictures of another size give nothing.

    Required and modified keys: ``img``, (H, W, 3), and ``gt_seg_map``, (H, W); also
    those of ``mix_results``.

    Args:
        num_objects (int): Number of objects, at most. Defaults to 2.
        temperature (float): See :class:`RareClassChoice`. Defaults to 0.01.

    Raises:
        ValueError: If ``num_objects`` is below 1.
    """

    def __init__(self, num_objects: int = 2, temperature: float = 0.01) -> None:
        if num_objects < 1:
            raise ValueError(f'num_objects must be >= 1, but got {num_objects}')
        self.num_objects = num_objects
        self.temperature = temperature
        self.choice: Optional[RareClassChoice] = None
        self._labels: List[int] = []

    def get_indices(self, dataset) -> List[int]:
        """Choose the pictures to take objects of.

        Args:
            dataset (Dataset): The one that ``MultiImageMixDataset`` holds. All of
                its label maps are read the first time.

        Returns:
            List[int]: As many as objects.
        """
        if self.choice is None:
            maps = LabelMaps(dataset, len(dataset.metainfo['classes']))
            self.choice = RareClassChoice(
                maps.counts, temperature=self.temperature)
        draws = [
            self.choice(np.random.randint(2**31)) for _ in range(self.num_objects)
        ]
        self._labels = [label for _, label in draws]
        return [index for index, _ in draws]

    def transform(self, results: Dict) -> Dict:
        """Paste objects of ``mix_results``."""
        rng = np.random.default_rng(np.random.randint(2**31))
        for other, label in zip(
                results['mix_results'], self._labels, strict=True):
            label_map, donor = results['gt_seg_map'], other['gt_seg_map']
            if donor.shape != label_map.shape or \
                    other['seg_map_path'] == results['seg_map_path']:
                continue
            place = find_place(label_map, donor, label, rng)
            if place is not None:
                results['gt_seg_map'] = place.paste(label_map, donor)
                results['img'] = place.paste(results['img'], other['img'])
        return results
