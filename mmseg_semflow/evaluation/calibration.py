"""Whether the probabilities of a segmentor are those with which it is right."""

from typing import Any, Dict, List, Optional, Sequence

import torch
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from torch import Tensor, nn


@METRICS.register_module()
class CalibrationError(BaseMetric):
    r"""Expected calibration error of the labelled pixels (Guo et al., ICML 2017).

    Pixels are put in bins of equal width by the largest probability, the softmax of
    ``seg_logits``; ``ECE`` is the mean distance of probability and accuracy of the
    bins, weighted by their pixels (Eq. 3), in percent. ``NLL`` is the mean
    cross-entropy in nats, ``confidence`` the mean largest probability in percent,
    which is below ``aAcc`` where a segmentor is too shy and above it where it is too
    bold. Of any segmentor of mmsegmentation, beside its IoUMetric.

    Args:
        num_bins (int): Defaults to 15.
        ignore_index (int): Label of void, which does not count. Defaults to 255.
        **kwargs: See :class:`mmengine.evaluator.BaseMetric`.

    Raises:
        ValueError: If ``num_bins`` is below 1.
    """

    def __init__(self,
                 num_bins: int = 15,
                 ignore_index: int = 255,
                 **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if num_bins < 1:
            raise ValueError(f'num_bins must be >= 1, but got {num_bins}')
        self.num_bins = num_bins
        self.ignore_index = ignore_index

    @torch.no_grad()
    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Count the pixels of a batch of results.

        Args:
            data_batch (Any): Not used.
            data_samples (Sequence[dict]): With ``seg_logits`` and ``gt_sem_seg``.

        Raises:
            ValueError: If there are no logits of at least two classes.
        """
        for sample in data_samples:
            logits = logits_of(sample)
            labels = sample['gt_sem_seg']['data'][0].to(logits.device).long()
            valid = labels != self.ignore_index
            self.results.append(
                count_bins(logits[:, valid].T, labels[valid], self.num_bins))

    def compute_metrics(self, results: List[Tensor]) -> Dict[str, float]:
        """Put the counts of all pictures together."""
        figures = calibration_figures(sum(results))
        del figures['aAcc']  # IoUMetric's, of that name too
        return figures


def logits_of(sample: dict) -> Tensor:
    """Find the logits in a result of mmsegmentation, as a metric gets it.

    Args:
        sample (dict): The result.

    Returns:
        Tensor: Logits, float32, shape (num_classes, H, W).

    Raises:
        ValueError: If there are none, or of a single class.
    """
    found = sample.get('seg_logits', {})
    logits: Optional[Tensor] = found.get('data')
    if logits is None and 'pseudo_mask' in found:
        logits = found['codec'].logits(found['pseudo_mask'][None])[0]
        logits = logits / found['temperature']
    if logits is None or len(logits) < 2:
        raise ValueError(
            'calibration needs seg_logits of at least two classes in a result, but ' +
            ('it has none' if logits is None else f'it has {len(logits)}'))
    return logits.float()


def count_bins(logits: Tensor, labels: Tensor, num_bins: int = 15) -> Tensor:
    """Sum up what the calibration of some pixels is computed of.

    Args:
        logits (Tensor): Shape (N, num_classes).
        labels (Tensor): True labels, int64, shape (N, ).
        num_bins (int): Bins of equal width in [0, 1]. Defaults to 15.

    Returns:
        Tensor: Of the pixels in each bin their number, the sums of their largest
        probabilities, of those labelled right and of their cross-entropies, float64,
        shape (4, num_bins), on the CPU.
    """
    logs = logits.float().log_softmax(1)
    largest, found = logs.max(1)
    sure = largest.exp().double()
    # A probability on a border belongs to the bin below it, as in the paper.
    index = ((sure * num_bins).ceil().long() - 1).clamp(0, num_bins - 1)
    values = torch.stack([
        torch.ones_like(sure), sure, (found == labels).double(),
        nn.functional.nll_loss(logs, labels, reduction='none').double()
    ])
    sums = values.new_zeros(4, num_bins)
    return sums.index_add_(1, index, values).cpu()


def calibration_figures(sums: Tensor) -> Dict[str, float]:
    """Compute the figures of :class:`CalibrationError`.

    Args:
        sums (Tensor): See :func:`count_bins`.

    Returns:
        Dict[str, float]: ``ECE``, ``confidence`` and ``aAcc`` in percent, ``NLL``.
    """
    count, sure, right, loss = sums
    total = count.sum()
    return dict(
        ECE=100 * ((sure - right).abs().sum() / total).item(),
        NLL=(loss.sum() / total).item(),
        confidence=100 * (sure.sum() / total).item(),
        aAcc=100 * (right.sum() / total).item())
