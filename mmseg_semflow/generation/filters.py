"""What of a generated picture its mask is true of."""

from typing import Dict, Iterable, Optional, Sequence, Tuple

import numpy as np
import torch
from mmengine.registry import DefaultScope
from mmengine.utils import track_iter_progress
from mmseg.apis import inference_model
from torch import nn

from mmseg_semflow.datasets.label_maps import class_pixels
from mmseg_semflow.evaluation.judge import load_segmentor
from mmseg_semflow.synthesis import Synthesizer

TOLERANCE = 1.25  # FreeMask, Sec. 3.3


class LossFilter:
    """Void the pixels that a trained segmentor finds much worse than real ones.

    FreeMask (Yang et al., NeurIPS 2023), Sec. 3.3 and 3.4: the segmentor's
    cross-entropy at a pixel is compared with ``tolerance`` times its mean on real
    pixels of that class.

    Args:
        config (str): Config of a segmentor of mmsegmentation.
        checkpoint (str): Its checkpoint.
        classes (Sequence[str]): The classes that it must have.
        device (str): Where it computes.
        tolerance (float): Defaults to 1.25.

    Attributes:
        class_losses (np.ndarray): Mean loss of the real pixels of every class,
            shape (K, ); :meth:`fit` finds it.

    Raises:
        ValueError: If it has other classes, or of :func:`load_segmentor`.
    """

    def __init__(self,
                 config: str,
                 checkpoint: str,
                 classes: Sequence[str],
                 device: str = 'cpu',
                 tolerance: float = TOLERANCE) -> None:
        self.network = load_segmentor(config, checkpoint, device)
        found = tuple(self.network.dataset_meta['classes'])
        if found != tuple(classes):
            raise ValueError(f'the judge {config} must have the classes of the '
                             f'generator, {tuple(classes)}, but has {found}')
        self.num_classes = len(found)
        self.tolerance = tolerance
        self.class_losses: Optional[np.ndarray] = None

    def losses(self, image: np.ndarray, label_map: np.ndarray) -> np.ndarray:
        """Compute the cross-entropy at every pixel.

        Args:
            image (np.ndarray): RGB, uint8, shape (H, W, 3).
            label_map (np.ndarray): Labels or 255, uint8, shape (H, W).

        Returns:
            np.ndarray: float32, shape (H, W); 0 at void.
        """
        with DefaultScope.overwrite_default_scope('mmseg'):
            result = inference_model(
                self.network, np.ascontiguousarray(image[..., ::-1]))
        logits = result.seg_logits.data[None].float()
        labels = torch.from_numpy(label_map.astype(np.int64))[None]
        return nn.functional.cross_entropy(
            logits, labels.to(logits.device), ignore_index=255,
            reduction='none')[0].cpu().numpy()

    def fit(self, pairs: Sequence[Tuple[np.ndarray, np.ndarray]]) -> None:
        """Learn the mean loss of every class on real pictures.

        Args:
            pairs (Sequence): Images and their labels, see :meth:`losses`.
        """
        counts = np.zeros(self.num_classes, np.int64)
        sums = np.zeros(self.num_classes)
        for image, label_map in track_iter_progress(pairs):
            losses = self.losses(image, label_map)
            valid = label_map < self.num_classes
            sums += np.bincount(
                label_map[valid], losses[valid], minlength=self.num_classes)
            counts += class_pixels(label_map, self.num_classes)
        # A class that no real picture shows is not filtered.
        self.class_losses = np.where(counts, sums / np.maximum(counts, 1), np.inf)

    def hardness(self, counts: np.ndarray) -> np.ndarray:
        """Average the losses of the classes of masks.

        Args:
            counts (np.ndarray): Pixels of every class in every mask, (N, K).

        Returns:
            np.ndarray: sum(n_c L_c) / sum(n_c) of every mask, shape (N, ).
        """
        known = np.where(np.isfinite(self.class_losses), self.class_losses, 0)
        return counts @ known / np.maximum(counts.sum(1), 1)

    def __call__(self, image: np.ndarray,
                 label_map: np.ndarray) -> Tuple[np.ndarray, dict]:
        """Void what is too hard.

        Args:
            image (np.ndarray): RGB, uint8, shape (H, W, 3).
            label_map (np.ndarray): Labels or 255, uint8, shape (H, W).

        Returns:
            Tuple[np.ndarray, dict]: The labels with void in the place of these
            pixels; and ``loss``, the mean of the labelled ones, ``class_losses``, that
            of each class that the labels hold, by label as text, and ``filtered``, the
            share of the labelled ones that got void.
        """
        limits = np.full(256, np.inf)
        limits[:self.num_classes] = self.tolerance * self.class_losses
        losses = self.losses(image, label_map)
        hard = losses > limits[label_map]
        labelled = label_map < self.num_classes
        number = max(labelled.sum(), 1)
        scores = dict(
            loss=losses.sum(where=labelled) / number,
            filtered=(hard & labelled).sum() / number)
        return np.where(hard, np.uint8(255), label_map), dict(
            {name: round(float(score), 4) for name, score in scores.items()},
            class_losses={
                str(label): round(float(losses[label_map == label].mean()), 4)
                for label in np.unique(label_map[labelled])
            })


class CycleFilter:
    """Judge a picture by the labels that the model's own flow finds on it.

    Args:
        synthesizer (Synthesizer): Of the model; it segments as it synthesises, in
            tiles where it has them.
        num_steps (int): Steps of the segmentation. Defaults to 1.

    Raises:
        ValueError: If the model's process does not lead to masks.
    """

    def __init__(self, synthesizer: Synthesizer, num_steps: int = 1) -> None:
        semflow = synthesizer.semflow
        semflow.process.check_direction('image_to_mask', type(self).__name__)
        self.synthesizer = synthesizer
        self.num_classes = semflow.codec.num_classes
        self.num_steps = num_steps

    def segment(self, image: np.ndarray) -> np.ndarray:
        """Label a picture, RGB, uint8, shape (H, W, 3): (H, W)."""
        pixels = torch.from_numpy(image).permute(2, 0, 1)
        return self.synthesizer.segment(pixels, self.num_steps).cpu().numpy()

    def __call__(self, image: np.ndarray, label_map: np.ndarray) -> dict:
        """Compare a picture with its mask.

        Args:
            image (np.ndarray): RGB, uint8, shape (H, W, 3).
            label_map (np.ndarray): Labels or 255, uint8, shape (H, W).

        Returns:
            dict: See :func:`agreement`.
        """
        return agreement(self.segment(image), label_map, self.num_classes)

    def threshold(self, pairs: Iterable[Tuple[np.ndarray, np.ndarray]]) -> float:
        """Calibrate on real pictures, see :func:`agreement_threshold`.

        Args:
            pairs (Iterable): At least two of them, see :meth:`__call__`.

        Returns:
            float: From which agreement on a picture shows its mask.
        """
        known = [(self.segment(image), label_map) for image, label_map in pairs]
        own, others = (
            [
                agreement(found, label_map, self.num_classes)['agreement']
                for (found, _), (_, label_map) in zip(known, masks, strict=True)
            ] for masks in (known, known[1:] + known[:1]))
        return agreement_threshold(own, others)


def agreement(found: np.ndarray, label_map: np.ndarray,
              num_classes: int) -> Dict[str, object]:
    """Compare the labels that a model's own flow finds with the mask.

    Args:
        found (np.ndarray): Labels, shape (H, W).
        label_map (np.ndarray): The mask, with 255 for void, shape (H, W).
        num_classes (int): Number of classes.

    Returns:
        Dict[str, object]: ``agreement``, the share of labelled pixels that are
        found, and ``class_agreement`` of the classes that the mask holds, by
        their labels as text.
    """
    labelled = label_map < num_classes
    right = labelled & (found == label_map)
    areas = class_pixels(label_map[labelled], num_classes)
    hits = class_pixels(label_map[right], num_classes)
    return dict(
        agreement=float(right.sum() / max(labelled.sum(), 1)),
        class_agreement={
            str(label): round(float(hits[label] / areas[label]), 4)
            for label in np.flatnonzero(areas)
        })


def agreement_threshold(own: Sequence[float], others: Sequence[float]) -> float:
    """Calibrate from which agreement on a picture shows its mask.

    Halfway between what nearly all real pictures reach with their own labels (the
    5 % quantile) and hardly one with those of another (the 95 % quantile).

    Args:
        own (Sequence[float]): Agreements of real pictures with their labels.
        others (Sequence[float]): With the labels of other pictures.

    Returns:
        float: The threshold.

    Raises:
        ValueError: If the model can't tell the two apart.
    """
    low, high = np.quantile(others, 0.95), np.quantile(own, 0.05)
    if high <= low:
        raise ValueError(
            'the model cannot judge its pictures: on real ones it agrees with the '
            f'labels of others (95 % quantile {low:.3f}) no less than with their '
            f'own (5 % quantile {high:.3f}). Set a threshold (--min-agreement)')
    return float((low + high) / 2)
