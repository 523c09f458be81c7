"""The style of every class, that of a reference picture."""

from pathlib import Path
from typing import Any, Dict, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor, nn

from mmseg_semflow.arguments import checked
from mmseg_semflow.flow import Network, seeded_generator
from mmseg_semflow.models import SemFlowModel
from mmseg_semflow.registry import MODELS

from .style import (
    REFERENCES,
    References,
    Style,
    check_size,
    check_strength,
    move_ends,
    read_references,
    renormalized,
)

# Cells of a class below which it has no statistics.
MIN_CELLS = 12
# Of so many pictures, drawn for a mask, the one most like it is taken.
NUM_DRAWN = 5
# Mean and deviation of a class, each of shape (C, 1).
ClassStyle = Tuple[Tensor, Tensor]


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
    which the reference lacks or which have fewer than 12 cells, stay, and so does the
    velocity at t = 0. Region-wise normalisation as in SEAN (Zhu et al., CVPR 2020,
    Sec. 3), without training.

    The references need no labels: the model segments them, whole and in one step, so
    their size should be about that of its training. Of five, drawn by the seed, the
    mask and the number of the sample, the one with most classes of the mask is taken.
    They are read when the first picture is drawn or the first attribute is read, and
    again, by every process, once the weights have changed, as between the validations
    of a training. Unreadable ones are logged, and the others used.

    Args:
        pictures (str | Path): A file, or a folder with its subfolders.
        size (Tuple[int, int], optional): Height and width in pixels to which they are
            resized first. Defaults to None, their own sizes.
        strength (float): :math:`\alpha`, in [0, 1]. Defaults to 1.

    Raises:
        FileNotFoundError: If there is nothing at the path, when they are read.
        ValueError: If the strength or the size breaks its rule; when a model is
            checked, if its network does not predict the velocity of a rectified flow;
            when they are read, if none can be.
    """

    def __init__(self,
                 pictures: Union[str, Path],
                 size: Optional[Tuple[int, int]] = None,
                 strength: float = 1.) -> None:
        check_size(size)
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

    def choose(self, label_map: Tensor, number: int, seed: int) -> int:
        """See :meth:`Style.choose`; the place of the reference."""
        styles = self._references().styles
        # Flat, so that it is not the generator of the noise.
        generator = seeded_generator(
            seed, number, label_map.flatten().to(torch.uint8))
        drawn = torch.randperm(len(styles), generator=generator)[:NUM_DRAWN].tolist()
        wanted = self._cells(label_map).keys()
        return max(drawn, key=lambda place: len(wanted & styles[place].keys()))

    def record(self, number: int, choice: Any = None) -> dict:
        """See :meth:`Style.record`."""
        return dict(style_picture=self._references().names[choice])

    def wrap(self,
             network: Network,
             label_maps: Sequence[Tensor] = (),
             choices: Sequence[Any] = ()) -> Network:
        """See :meth:`Style.wrap`.

        Raises:
            ValueError: If there are not as many choices as labels, or, when the network
                is called, as pictures.
        """
        if len(choices) != len(label_maps):
            raise ValueError(f'{type(self).__name__} wants a choice for every label '
                             f'map, but got {len(choices)} for {len(label_maps)}')
        styles = self._references().styles
        plans = [[(cells, *styles[choice][label])
                  for label, cells in self._cells(label_map).items()
                  if label in styles[choice]]
                 for label_map, choice in zip(label_maps, choices, strict=True)]

        def change(z0: Tensor) -> Tensor:
            if len(z0) != len(plans):
                raise ValueError(f'{type(self).__name__} wants the labels of '
                                 f'{len(z0)} pictures, but got {len(plans)}')
            changes = z0.new_zeros(z0.shape)
            for z, changed, plan in zip(
                    z0.flatten(2), changes.flatten(2), plans, strict=True):
                for cells, mean, std in plan:
                    values = z[:, cells]
                    changed[:, cells] = self.strength * (
                        renormalized(values, mean.to(z), std.to(z), -1) - values)
            return changes

        return move_ends(network, change)

    def _cells(self, label_map: Tensor) -> Dict[int, Tensor]:
        """Find the latent cells of every class that has enough of them.

        Args:
            label_map (Tensor): Labels, shape (H, W).

        Returns:
            Dict[int, Tensor]: Places in the flattened latents, int64, on the device of
            the model.
        """
        factor = self._semflow.autoencoder.factor
        height, width = label_map.shape
        # As the pixels are padded before they are encoded.
        padded = nn.functional.pad(
            label_map.to(self._semflow.device)[None].float(),
            (0, -width % factor, 0, -height % factor), mode='replicate')[0].long()
        pixels = padded.unfold(0, factor, factor).unfold(1, factor, factor).reshape(
            -1, factor**2)
        most = pixels.mode(-1).values
        sure = (pixels == most[:, None]).sum(-1) > factor**2 / 2
        labels, counts = most[sure].unique(return_counts=True)
        return {
            label: (sure & (most == label)).nonzero()[:, 0]
            for label in labels[counts >= MIN_CELLS].tolist()
            if 0 <= label < self._semflow.codec.num_classes
        }

    def _references(self) -> References:
        if self._semflow is None:
            raise ValueError(f'{type(self).__name__} needs a model that segments its '
                             'pictures: call check_model first')
        of_model = REFERENCES.setdefault(self._semflow, {})
        key = type(self), str(self.pictures), self.size
        weights = self._fingerprint()
        if key not in of_model or of_model[key][0] != weights:
            # Alike, whoever asks first.
            with torch.no_grad(), torch.autocast(
                    self._semflow.device.type, enabled=False):
                of_model[key] = weights, read_references(
                    type(self).__name__, self._semflow, self.pictures, self.size,
                    self._styles_of)
        return of_model[key][1]

    @torch.no_grad()
    def _fingerprint(self) -> bytes:
        """Tell weights apart: a step of a training changes all of a layer."""
        weights = [w.flatten() for w in self._semflow.parameters() if w.numel()]
        first = [weight[0].float() for weight in weights]
        return torch.stack(first).cpu().numpy().tobytes()

    def _styles_of(self, pixels: Tensor, z0: Tensor) -> Dict[int, ClassStyle]:
        """Measure the classes that the model finds in a picture."""
        labels = self._semflow.codec.decode(self._semflow.image_to_mask(pixels, 1))[0]
        styles = {}
        for label, cells in self._cells(labels).items():
            std, mean = torch.std_mean(
                z0[0].flatten(1)[:, cells], -1, unbiased=False, keepdim=True)
            styles[label] = mean, std
        return styles
