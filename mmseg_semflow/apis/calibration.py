"""The temperature by which a segmentor's probabilities become true."""

from math import exp
from typing import Dict, List, Optional, Tuple

import torch
from matplotlib import pyplot as plt
from mmengine.model import BaseModel
from mmengine.registry import DATASETS
from mmengine.utils import track_iter_progress
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from mmseg_semflow.evaluation.calibration import (
    calibration_figures,
    count_bins,
    logits_of,
)
from mmseg_semflow.synthesis.gallery import to_png

from .loading import name_of
from .scoring import batch_of

LIMIT = 7  # of the logarithm of a temperature, either way


class TemperatureFit:
    """Fit the temperature of a segmentor on its test data (Guo et al., ICML 2017).

    The temperature T divides the logits and minimises the cross-entropy of the
    labelled pixels; no label changes by it. To tell what it is worth on pictures
    that it was not fitted to, every other picture is measured with that of the rest.

    Args:
        model (BaseModel): A segmentor of mmsegmentation, with its config as
            ``cfg``.
        num_images (int, optional): How many of the test images, evenly spaced.
            Defaults to None, all.
        num_pixels (int): Pixels of each, at random but for each picture always the
            same ones. Defaults to 10000.

    Attributes:
        temperature (float): T, for ``test_cfg.temperature``.
        bins (Dict[str, Tensor]): Of ``'before'``, with the logits as they are, and
            ``'after'`` what :func:`count_bins` tells.

    Raises:
        ValueError: If there are less than two images, or a number is below 1.
    """

    def __init__(self,
                 model: BaseModel,
                 num_images: Optional[int] = None,
                 num_pixels: int = 10000) -> None:
        cfg = model.cfg
        if 'test_dataloader' not in cfg:
            raise ValueError(f'{name_of(cfg)} has no test_dataloader')
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
        count = min(num_images or len(dataset), len(dataset))
        for name, value, least in (('num_images', count, 2),
                                   ('num_pixels', num_pixels, 1)):
            if value < least:
                raise ValueError(f'{name} must be >= {least}, but got {value}')
        settings = model.test_cfg
        model.test_cfg = type(settings)(settings, temperature=1.)
        try:
            parts = [
                self._pixels(model, dataset, i * len(dataset) // count, num_pixels)
                for i in track_iter_progress(list(range(count)))
            ]
        finally:
            model.test_cfg = settings
        halves = [_together(parts[half::2]) for half in (0, 1)]
        self.temperature = fit_temperature(*_together(parts))
        self.bins: Dict[str, Tensor] = dict(
            before=sum(count_bins(*half) for half in halves),
            after=sum(
                count_bins(logits / fit_temperature(*other), labels)
                for (logits, labels), other in zip(
                    halves, reversed(halves), strict=True)))

    @staticmethod
    @torch.no_grad()
    def _pixels(model: BaseModel, dataset: torch.utils.data.Dataset, index: int,
                num_pixels: int) -> Tuple[Tensor, Tensor]:
        result, = model.test_step(batch_of(dataset[index]))
        logits = logits_of(result.to_dict()).flatten(1).T
        labels = result.gt_sem_seg.data.flatten().to(logits.device).long()
        valid = (labels < logits.shape[1]).nonzero()[:, 0]
        chosen = torch.randperm(
            len(valid), generator=torch.Generator().manual_seed(index))[:num_pixels]
        valid = valid[chosen.to(valid.device)]
        return logits[valid].cpu(), labels[valid].cpu()

    @property
    def figures(self) -> Dict[str, Dict[str, float]]:
        """Dict[str, Dict[str, float]]: Of both :attr:`bins` the figures."""
        return {name: calibration_figures(bins) for name, bins in self.bins.items()}

    def to_plot(self) -> bytes:
        """Plot accuracy by probability, before and after, as PNG."""
        figure, axes = plt.subplots(1, 2, figsize=(7, 3.6), sharey=True)
        for axis, (name, bins) in zip(axes, self.bins.items(), strict=True):
            number, sure, right, _ = bins[:, bins[0] > 0]
            axis.plot([0, 1], [0, 1], color='0.7', linewidth=1)
            axis.plot(sure / number, right / number, marker='o')
            axis.bar(sure / number, number / number.sum(), width=0.05, color='0.8')
            axis.set(title=f'{name}: ECE {self.figures[name]["ECE"]:.1f} %',
                     xlabel='largest probability', xlim=(0, 1), ylim=(0, 1))
            axis.grid(alpha=0.3)
        axes[0].set_ylabel('pixels labelled right; grey: share of all')
        figure.tight_layout()
        return to_png(figure)


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Minimise the cross-entropy of softmax(logits / T).

    As a function of 1 / T it is convex, so that there is one minimum.

    Args:
        logits (Tensor): Shape (N, num_classes).
        labels (Tensor): True labels, int64, shape (N, ).

    Returns:
        float: T, in [exp(-7), exp(7)].
    """
    logits = logits.double()  # near the minimum the loss hardly changes
    found = minimize_scalar(
        lambda log: nn.functional.cross_entropy(logits / exp(log), labels).item(),
        bounds=(-LIMIT, LIMIT),
        method='bounded',
        options=dict(xatol=1e-4))
    return exp(found.x)


def _together(parts: List[Tuple[Tensor, Tensor]]) -> Tuple[Tensor, Tensor]:
    logits, labels = zip(*parts, strict=True)
    return torch.cat(logits), torch.cat(labels)
