"""The style of every class, that of a reference picture."""

import hashlib
import logging
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor, nn

from mmseg_semflow.arguments import checked
from mmseg_semflow.flow import Network, seeded_generator
from mmseg_semflow.models import SemFlowModel
from mmseg_semflow.pixels import resize_labels, to_uint8
from mmseg_semflow.registry import MODELS

from .style import (
    REFERENCES,
    Request,
    Style,
    check_strength,
    encoded_pictures,
    move_ends,
    name_in,
    renormalized,
)

# Cells of a class below which it has no statistics.
MIN_CELLS = 12
# Of so many pictures, drawn for a mask, the one most like it is taken.
NUM_DRAWN = 5
# What mean and deviation of a class are, each of shape (C, 1).
ClassStyle = Tuple[Tensor, Tensor]


class _References(NamedTuple):
    """Names of reference pictures, the styles of their classes, a digest, failures."""

    names: List[str]
    styles: List[Dict[int, ClassStyle]]
    source: str
    failed: Dict[str, str]


@MODELS.register_module()
@checked
class ClassStatistics(Style):
    r"""Give every class the mean and the deviation that it has in a reference picture.

    A network that does not know which picture belongs to a mask leads to a mean of
    many, in which all facades are alike. As :class:`LatentStatistics`, but for the
    cells of every class by themselves, and by the statistics of another picture for
    every sample, real ones give them back their light, their contrast and how they
    differ. Cells of a class c, of those at which the velocity leads to :math:`z_0`, get

    .. math::
        z_0' = z_0 + \alpha \left(\sigma_c \frac{z_0 - \mu(z_0)}{\sigma(z_0)}
        + \mu_c - z_0\right),

    where the means and deviations are of every channel over the cells of the class. A
    cell is of the class that most of its pixels have; others, and those of classes
    which the reference lacks or which have fewer than 12 cells, stay. Region-wise
    normalisation as in SEAN (Zhu et al., CVPR 2020, Sec. 3), without training.

    The references need no labels: the model segments them, in one step. Of five, drawn
    by the seed, the mask and the number of the sample, the one with most classes of
    the mask is taken. They are read once, when the first picture is drawn or the first
    attribute is read, and again once the model was trained on. Unreadable ones are
    logged, and the others used.

    Args:
        pictures (str | Path): A file, or a folder with its subfolders.
        size (Tuple[int, int], optional): Height and width in pixels to which they are
            resized first, and masks before they choose: that of the synthesis.
            Defaults to None, their own sizes.
        strength (float): :math:`\alpha`, in [0, 1]. Defaults to 1.

    Raises:
        FileNotFoundError: If there is nothing at the path, when they are encoded.
        ValueError: If the strength or the size breaks its rule; when a model is
            checked, if its network does not predict the velocity of a rectified flow;
            when they are encoded, if none can be read.
    """

    def __init__(self,
                 pictures: Union[str, Path],
                 size: Optional[Tuple[int, int]] = None,
                 strength: float = 1.) -> None:
        if size is not None and (len(size) != 2 or min(size) < 1):
            raise ValueError(
                f'size must be (height, width), both >= 1, but got {size}')
        check_strength(strength)
        self.pictures = Path(pictures)
        self.size = size and tuple(size)
        self.strength = float(strength)
        self._semflow: Optional[SemFlowModel] = None

    def check_model(self, semflow: SemFlowModel) -> None:
        """See :meth:`Style.check_model`."""
        super().check_model(semflow)
        self._semflow = semflow

    @property
    def settings(self) -> dict:
        """dict: See :attr:`Style.settings`."""
        return dict(
            type=type(self).__name__,
            strength=self.strength,
            source=self._references().source)

    @property
    def failed(self) -> Dict[str, str]:
        """Dict[str, str]: The pictures that could not be read, with the reason."""
        return self._references().failed

    def wrap(self,
             network: Network,
             requests: Sequence[Request] = (),
             seed: int = 0) -> Network:
        """See :meth:`Style.wrap`."""
        cells = [self._cells(label_map) for label_map, _ in requests]
        styles = [
            self._references().styles[self._choose(label_map, number, seed)]
            for label_map, number in requests
        ]

        def change(z0: Tensor) -> Tensor:
            changes = torch.zeros_like(z0)
            for z, changed, labels, style in zip(
                    z0, changes, cells, styles, strict=True):
                for label in _classes_of(labels) & style.keys():
                    chosen = labels == label
                    values = z[:, chosen]
                    mean, std = (part.to(z) for part in style[label])
                    changed[:, chosen] = self.strength * (
                        renormalized(values, mean, std, -1) - values)
            return changes

        return move_ends(network, change)

    def record(self,
               number: int,
               label_map: Optional[Tensor] = None,
               seed: int = 0) -> dict:
        """See :meth:`Style.record`."""
        chosen = self._choose(label_map, number, seed)
        return dict(style_picture=self._references().names[chosen])

    def _choose(self, label_map: Tensor, number: int, seed: int) -> int:
        """Tell the place of the reference of a sample."""
        if self.size is not None:
            # So that both passes of a fusion have the same.
            label_map = resize_labels(label_map, self.size)
        styles = self._references().styles
        # Flat, so that it is not the generator of the noise.
        generator = seeded_generator(
            seed, number, label_map.flatten().to(torch.uint8))
        drawn = torch.randperm(len(styles), generator=generator)[:NUM_DRAWN].tolist()
        wanted = _classes_of(self._cells(label_map))
        return max(drawn, key=lambda place: len(wanted & styles[place].keys()))

    def _cells(self, label_map: Tensor) -> Tensor:
        """Tell the class of every latent cell, (h, w), -1 where none has most of it."""
        factor = self._semflow.autoencoder.factor
        num_classes = self._semflow.codec.num_classes
        labels = label_map.to(self._semflow.device).long()
        height, width = labels.shape
        void = (labels < 0) | (labels >= num_classes)
        labels = labels.masked_fill(void, num_classes)
        shares = nn.functional.one_hot(labels, num_classes + 1).movedim(-1, 0).float()
        # As the pixels are padded before they are encoded.
        shares = nn.functional.pad(
            shares[None], (0, -width % factor, 0, -height % factor), mode='replicate')
        share, found = nn.functional.avg_pool2d(
            shares[:, :num_classes], factor)[0].max(0)
        return torch.where(share > 0.5, found, -1)

    @torch.no_grad()
    def _references(self) -> _References:
        of_model = REFERENCES.setdefault(self._semflow, {})
        key = type(self), str(self.pictures), self.size
        # Steps of a training and what it loads count up.
        version = sum(weight._version for weight in self._semflow.parameters())
        if key not in of_model or of_model[key][0] != version:
            of_model[key] = version, self._read_references()
        return of_model[key][1]

    def _read_references(self) -> _References:
        # Alike, whoever asks first.
        with torch.autocast(self._semflow.device.type, enabled=False):
            source = hashlib.sha256(repr(self.size).encode())
            names, styles, failed = [], [], {}
            for file, pixels, z0 in encoded_pictures(
                    self._semflow, self.pictures, self.size, failed):
                source.update(file.read_bytes())
                names.append(name_in(file, self.pictures))
                styles.append(self._styles_of(pixels, z0[0]))
        # Of mmengine, which what is exported does without.
        from mmengine.logging import print_log
        for reason in failed.values():
            print_log(
                f'ClassStatistics leaves out {reason}', 'current', logging.WARNING)
        return _References(names, styles, source.hexdigest()[:16], failed)

    def _styles_of(self, pixels: Tensor, z0: Tensor) -> Dict[int, ClassStyle]:
        """Measure the classes that the model finds in a picture."""
        semflow = self._semflow
        generators = None
        if 'image_to_mask' in semflow.stochastic:
            generators = [seeded_generator(0, 0, to_uint8(pixels)[0])]
        found = semflow.image_to_mask(pixels, 1, generators=generators)
        labels = self._cells(semflow.codec.decode(found)[0])
        styles = {}
        for label in _classes_of(labels):
            std, mean = torch.std_mean(
                z0[:, labels == label], -1, unbiased=False, keepdim=True)
            styles[label] = mean, std
        return styles


def _classes_of(cells: Tensor) -> set:
    """Tell the classes of enough cells."""
    labels, counts = cells[cells >= 0].unique(return_counts=True)
    return set(labels[counts >= MIN_CELLS].tolist())
