"""Masks made of masks: crops, flips, and pasted objects."""

from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Tuple

import cv2
import numpy as np

from mmseg_semflow.datasets.label_maps import LabelMaps
from mmseg_semflow.datasets.mask_choice import MaskChoice, numbers_of
from mmseg_semflow.datasets.pasting import find_place
from mmseg_semflow.datasets.seeded import MASK_VIEW

Sides = Tuple[int, int]
TRIES = 10
# A crop that is centred on a class shall show at least so much of it (DGInStyle).
CROP_SHARE = 0.01


@dataclass
class MaskView:
    """The mask of one picture of a set.

    Attributes:
        label_map (np.ndarray): uint8 labels, shape (H, W).
        record (dict): How it was made, for the manifest.
    """

    label_map: np.ndarray
    record: Dict[str, Any]


class MaskViews:
    """Make the masks of a generated set, each a function of seed and number.

    A chosen map is perhaps flipped, gets objects of rare classes of other maps,
    is scaled, and cropped: around a random pixel of the class that it was chosen
    for, or that a flip made of it, tried again until that fills 1 % of the crop.

    Args:
        label_maps (LabelMaps): The maps.
        choice (MaskChoice): Which of them.
        size (Tuple[int, int]): Height and width of the masks.
        scale (Tuple[float, float]): Range, from 1, of the factor by which a map
            is larger than what just covers ``size``. Defaults to (1, 1).
        flip (float): Probability of a horizontal flip. Defaults to 0.
        swap_labels (Sequence[Tuple[int, int]]): Labels, as the files have them,
            that a flip changes for each other, such as those of left and right.
            Defaults to none.
        paste (int): Number of objects to paste, at most. Defaults to 0.
        paste_from (MaskChoice, optional): Chooses the maps with classes of which
            objects are taken. Defaults to None, needed with ``paste``.

    Raises:
        ValueError: If an argument breaks its rule.
    """

    def __init__(self,
                 label_maps: LabelMaps,
                 choice: MaskChoice,
                 size: Sides,
                 scale: Tuple[float, float] = (1., 1.),
                 flip: float = 0.,
                 swap_labels: Sequence[Tuple[int, int]] = (),
                 paste: int = 0,
                 paste_from: Optional[MaskChoice] = None) -> None:
        if len(scale) != 2 or not 1 <= scale[0] <= scale[1]:
            raise ValueError(
                f'scale must be a range of factors from 1 on, but got {scale}')
        if not 0 <= flip <= 1:
            raise ValueError(f'flip must be in [0, 1], but got {flip}')
        if paste < 0:
            raise ValueError(f'paste must be >= 0, but got {paste}')
        if paste and paste_from is None:
            raise ValueError(f'paste={paste} needs paste_from, which chooses the masks')
        self.label_maps = label_maps
        self.choice = choice
        self.size = tuple(size)
        self.scale = tuple(scale)
        self.flip = flip
        # As mmsegmentation's RandomFlip reads the pairs.
        self.swapped = np.arange(256, dtype=np.uint8)
        for one, other in swap_labels:
            self.swapped[[one, other]] = other, one
        self.paste = paste
        self.paste_from = paste_from

    def __call__(self, number: int) -> MaskView:
        """Make the mask of a picture.

        Args:
            number (int): Which picture of the set, from 0.

        Returns:
            MaskView: Of ``size``.
        """
        rng = numbers_of(MASK_VIEW, self.choice.seed, number)
        index, label = self.choice(number)
        label_map = self.label_maps[index]
        flipped = bool(rng.random() < self.flip)
        if flipped:
            label_map = self.swapped[label_map[:, ::-1]]
            label = None if label is None else int(self.swapped[label])
        label_map, pasted = self._paste(label_map, index, rng, number)
        ratio = float(rng.uniform(*self.scale))
        label_map = enlarge(label_map, self.size, ratio)
        top, left = place_crop(label_map, self.size, label, rng)
        height, width = self.size
        return MaskView(
            np.ascontiguousarray(
                label_map[top:top + height, left:left + width]),
            dict(
                source=self.label_maps.path(index).name,
                index=index,
                chosen_for=label,
                flipped=flipped,
                scale=round(ratio, 4),
                crop=[top, left, height, width],
                pasted=pasted))

    def _paste(self, label_map: np.ndarray, own: int, rng: np.random.Generator,
               number: int) -> Tuple[np.ndarray, List[dict]]:
        pasted = []
        for count in range(self.paste):
            index, label = self.paste_from(self.paste * number + count)
            donor = self.label_maps[index]
            # Rows of maps of other sizes tell nothing of the perspective.
            if index == own or donor.shape != label_map.shape:
                continue
            place = find_place(label_map, donor, label, rng)
            if place is not None:
                label_map = place.paste(label_map, donor)
                pasted.append(
                    dict(
                        source=self.label_maps.path(index).name,
                        label=label,
                        shift=place.shift))
        return label_map, pasted


def enlarge(label_map: np.ndarray, size: Sides, ratio: float) -> np.ndarray:
    """Resize a map by nearest to ``ratio`` times what just covers ``size``."""
    sides = label_map.shape
    factor = ratio * max(
        wanted / side for wanted, side in zip(size, sides, strict=True))
    height, width = (
        max(round(side * factor), wanted)
        for side, wanted in zip(sides, size, strict=True))
    return cv2.resize(
        label_map, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


def place_crop(label_map: np.ndarray, size: Sides, label: Optional[int],
               rng: np.random.Generator) -> Tuple[int, int]:
    """Place a crop at random, or around a random pixel of a class.

    Args:
        label_map (np.ndarray): Labels, at least of ``size``, shape (H, W).
        size (Tuple[int, int]): Height and width of the crop.
        label (int, optional): A class. The crop is drawn again, up to ten times,
            until the class fills 1 % of it; else the best one is taken.
        rng (np.random.Generator): Source of randomness.

    Returns:
        Tuple[int, int]: First row and column.
    """
    last = [side - crop for side, crop in zip(label_map.shape, size, strict=True)]
    rows, columns = np.nonzero(label_map == label) if label is not None else ((), ())
    if not len(rows):
        return tuple(int(rng.integers(end + 1)) for end in last)
    best, found = (0, 0), -1.
    for _ in range(TRIES):
        pick = rng.integers(len(rows))
        place = tuple(
            int(np.clip(centre - crop // 2, 0, end))
            for centre, crop, end in zip(
                (rows[pick], columns[pick]), size, last, strict=True))
        share = (label_map[place[0]:place[0] + size[0],
                           place[1]:place[1] + size[1]] == label).mean()
        if share > found:
            best, found = place, share
        if share >= CROP_SHARE:
            break
    return best
