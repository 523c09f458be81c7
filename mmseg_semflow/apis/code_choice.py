"""A choice of anchor colours that survives uncertain masks."""

from typing import Dict, List, Optional, Sequence, Tuple

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from mmengine.utils import track_iter_progress
from mmseg.evaluation import IoUMetric
from torch import Tensor, nn

from mmseg_semflow.flow import PseudoMaskCodec
from mmseg_semflow.pixels import resize_labels

from .loading import read_config

# What a network does not know, as it appears in the mean of masks that it
# predicts: where borders run (standard deviation, in pixels at HEIGHT), and what
# there is in the surroundings of SURROUNDINGS pixels (their share).
HEIGHT = 128
DOUBTS = ((1.5, 0.), (1.5, 0.2), (3., 0.1), (3., 0.3), (5., 0.2))
SURROUNDINGS = 24.
POINTS = 40000
NOISE = 25.  # what a decoder adds to colours, in 8-bit levels
START, COOLING = 1.5, 0.9985


class CodeChoice:
    r"""Look for the codes of classes that doubt turns into others least.

    A network that matches velocities predicts, where it is in doubt, the mean
    of the masks that may be, and the nearest anchor of a mixed colour can
    belong to a third class. At points of blurred masks, with shares
    :math:`p_c` of the classes and anchors :math:`a_c`, the class nearest to
    :math:`\sum_c p_c a_c + n`, with some noise n, is compared with the true
    one; codes are exchanged by simulated annealing so that the mIoU grows.

    Args:
        cfg (Config): A config of SemFlow; the masks are those of its training
            set, as they lie on the disk.
        num_images (int): How many of them, evenly spaced. Defaults to 100.
        seed (int): Seed of points, noise and exchanges. Defaults to 0.

    Raises:
        ValueError: If the config is none of SemFlow.
    """

    def __init__(self, cfg: Config, num_images: int = 100, seed: int = 0) -> None:
        cfg = read_config(cfg)
        init_default_scope(cfg.get('default_scope', 'mmseg'))
        self.codec = PseudoMaskCodec(**cfg.model.semflow.codec)
        dataset = cfg.train_dataloader.dataset
        dataset = dict(dataset.get('dataset', dataset))
        dataset['pipeline'] = [
            dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')
        ]
        self.dataset = DATASETS.build(dataset)
        self._random = torch.Generator().manual_seed(seed)
        count = min(num_images, len(self.dataset))
        label_maps = [
            self._labels(i * len(self.dataset) // count)
            for i in track_iter_progress(list(range(count)))
        ]
        self._points = [
            self._doubtful(label_maps, *doubt) for doubt in DOUBTS
        ]

    def _labels(self, index: int) -> Tensor:
        labels = torch.from_numpy(self.dataset[index]['gt_seg_map']).long()
        width = round(HEIGHT * labels.shape[1] / labels.shape[0])
        return resize_labels(labels, (HEIGHT, width))

    def _doubtful(self, label_maps: Sequence[Tensor], std: float,
                  share: float) -> Tuple[Tensor, Tensor, Tensor]:
        """Give shares (N, classes), true labels (N, ) and noise (N, 3)."""
        shares, truth = [], []
        each = POINTS // len(label_maps)
        for labels in label_maps:
            valid = labels != self.codec.ignore_index
            one_hot = torch.zeros(self.codec.num_classes, *labels.shape)
            one_hot.scatter_(0, (labels * valid)[None], valid[None].float())
            near, far = (
                _normalised(_blurred(one_hot, width))
                for width in (std, SURROUNDINGS))
            mixed = ((1 - share) * near + share * far).flatten(1)
            places = valid.flatten().nonzero()[:, 0]
            if not len(places):
                continue
            chosen = places[torch.randint(
                len(places), (each, ), generator=self._random)]
            shares.append(mixed[:, chosen].T)
            truth.append(labels.flatten()[chosen])
        noise = NOISE * torch.randn(
            sum(map(len, truth)), 3, generator=self._random)
        return torch.cat(shares), torch.cat(truth), noise

    def score(self, codes: Sequence[int], divisions: int,
              spacing: int) -> Tensor:
        """Compute the IoU of each class, in percent, the mean of all doubts.

        Args:
            codes (Sequence[int]): One for each class, see
                :class:`PseudoMaskCodec`.
            divisions (int): Levels per channel, k.
            spacing (int): Distance of levels, s.

        Returns:
            Tensor: Shape (num_classes, ); NaN where a class is not in the
            masks.
        """
        digits = torch.cartesian_prod(*[torch.arange(divisions)] * 3)
        anchors = spacing * digits[list(codes)].float()
        found = []
        for shares, truth, noise in self._points:
            nearest = torch.cdist(shares @ anchors + noise, anchors).argmin(1)
            both, either, _, true = IoUMetric.intersect_and_union(
                nearest, truth, len(anchors), self.codec.ignore_index)
            found.append(torch.where(true > 0, 100 * both / either, torch.nan))
        return torch.stack(found).nanmean(0)

    def search(self,
               divisions: int,
               spacing: int,
               num_exchanges: int = 2000,
               start: Optional[Sequence[int]] = None) -> List[int]:
        """Exchange codes, the better kept, the worse ever more seldom.

        Args:
            divisions (int): Levels per channel, k, with at least as many
                colours as classes.
            spacing (int): Distance of levels, s.
            num_exchanges (int): How many are tried. Defaults to 2000.
            start (Sequence[int], optional): Codes to start with. Defaults to
                None, those of Eq. 7.

        Returns:
            List[int]: The best codes found.

        Raises:
            ValueError: If there are too few colours.
        """
        num_classes, num_colours = self.codec.num_classes, divisions**3
        if num_colours < num_classes:
            raise ValueError(
                f'{divisions} levels per channel make {num_colours} colours, too '
                f'few for {num_classes} classes')
        codes = list(start or range(num_classes))
        now = self.score(codes, divisions, spacing).nanmean().item()
        best: Dict[str, object] = dict(score=now, codes=codes)
        temperature = START

        def draw(size: int) -> int:
            return int(torch.randint(size, (), generator=self._random))

        for _ in track_iter_progress(list(range(num_exchanges))):
            # With the code of another class, or with one that nobody has.
            order = codes + sorted(set(range(num_colours)) - set(codes))
            one, other = draw(num_classes), draw(num_colours)
            order[one], order[other] = order[other], order[one]
            tried = order[:num_classes]
            score = self.score(tried, divisions, spacing).nanmean().item()
            chance = torch.rand((), generator=self._random)
            if chance.log() < (score - now) / temperature:
                codes, now = tried, score
            if now > best['score']:
                best = dict(score=now, codes=codes)
            temperature *= COOLING
        return best['codes']


def widest_levels(num_classes: int,
                  divisions: Optional[int] = None,
                  spacing: Optional[int] = None) -> Tuple[int, int]:
    """Tell with which levels per channel colours lie farthest apart.

    Args:
        num_classes (int): Number of classes.
        divisions (int, optional): Levels per channel, k. Defaults to None, the
            least of which there are enough colours, at least 2.
        spacing (int, optional): Their distance s. Defaults to None, the widest
            that Eq. 7 allows.

    Returns:
        Tuple[int, int]: k and s.

    Raises:
        ValueError: If ``divisions`` is below 2.
    """
    if divisions is None:
        divisions = 2
        while divisions**3 < num_classes:
            divisions += 1
    if divisions < 2:
        raise ValueError(f'divisions must be >= 2, but got {divisions}')
    return divisions, 254 // (divisions - 1) if spacing is None else spacing


def _blurred(shares: Tensor, std: float) -> Tensor:
    """Blur (C, H, W) by a Gaussian."""
    radius = int(3 * std)
    kernel = torch.arange(-radius, radius + 1).div(std).square().mul(-0.5).exp()
    kernel = kernel / kernel.sum()
    padded = nn.functional.pad(shares[:, None], (radius, ) * 4, mode='replicate')
    return nn.functional.conv2d(
        nn.functional.conv2d(padded, kernel[None, None, None]),
        kernel[None, None, :, None])[:, 0]


def _normalised(shares: Tensor) -> Tensor:
    return shares / shares.sum(0).clamp(min=1e-6)
