"""Objects of one label map in another, in the right perspective."""

from dataclasses import dataclass
from typing import Optional

import cv2
import numpy as np

TRIES = 10


@dataclass
class Place:
    """Where an object of another map fits.

    Attributes:
        shown (np.ndarray): Its pixels in the donor that will be seen, bool, shape
            (H, W).
        shift (int): By how many columns it moves to the right.
    """

    shown: np.ndarray
    shift: int

    def paste(self, pixels: np.ndarray, donor: np.ndarray) -> np.ndarray:
        """Paste the object's pixels, of label maps or of images.

        Args:
            pixels (np.ndarray): Shape (H, W) or (H, W, C).
            donor (np.ndarray): What holds the object, of the same shape.

        Returns:
            np.ndarray: A new array.
        """
        rows, columns = np.nonzero(self.shown)
        new = pixels.copy()
        new[rows, columns + self.shift] = donor[rows, columns]
        return new


def find_place(label_map: np.ndarray, donor: np.ndarray, label: int,
               rng: np.random.Generator) -> Optional[Place]:
    """Find a place for an object of another map.

    An object, a connected component, keeps its size and its rows, as cameras at one
    height over one ground see it, and is shifted sideways to where it stands on
    what it stood on: the class right below it, or void. What stands nearer, on lower
    rows, stays before it.

    Args:
        label_map (np.ndarray): Labels, shape (H, W).
        donor (np.ndarray): Labels that hold the object, of the same shape.
        label (int): Its class.
        rng (np.random.Generator): Source of randomness.

    Returns:
        Optional[Place]: None if none of ten tries found one.
    """
    count, components, stats, _ = cv2.connectedComponentsWithStats(
        (donor == label).astype(np.uint8), connectivity=8)
    if count < 2:
        return None
    areas = stats[1:, cv2.CC_STAT_AREA]
    component = 1 + int(rng.choice(len(areas), p=areas / areas.sum()))
    left, top, width, height = (int(side) for side in stats[component, :4])
    mask, below = components == component, top + height
    if below >= len(donor):
        return None
    feet = np.flatnonzero(mask[below - 1])
    ground = np.bincount(donor[below, feet]).argmax()
    for _ in range(TRIES):
        shift = int(rng.integers(label_map.shape[1] - width + 1)) - left
        if (label_map[below, feet + shift] == ground).mean() < 0.5:
            continue
        hidden = np.roll(_nearer(label_map, ground, below), -shift, 1)
        if (mask & ~hidden).any():
            return Place(mask & ~hidden, shift)
    return None


def _nearer(label_map: np.ndarray, ground: int, row: int) -> np.ndarray:
    """Find what stands on lower rows: components that end there.

    Those that reach the border are no objects but ground, such as pavements.
    """
    nearer = np.zeros(label_map.shape, bool)
    for label in np.setdiff1d(np.unique(label_map[row:]), [ground, 255]):
        _, components, stats, _ = cv2.connectedComponentsWithStats(
            (label_map == label).astype(np.uint8), connectivity=8)
        ends = stats[:, cv2.CC_STAT_TOP] + stats[:, cv2.CC_STAT_HEIGHT]
        chosen = (ends > row) & (ends < len(label_map))
        chosen[0] = False
        nearer |= chosen[components]
    return nearer
