"""Distances between the sets of real and of synthesised images."""

from typing import Any, Dict, List, Optional

import torch
from mmengine.registry import METRICS
from torch import Tensor, nn

from mmseg_semflow.networks.features import INCEPTION_URL, inception_network

from .base import SynthesisMetric


@METRICS.register_module()
class InceptionDistance(SynthesisMetric):
    r"""Compute FID (Heusel et al. 2017) and KID (Binkowski et al. 2018).

    With the means and covariances of the features of all real images and of
    all samples,

    .. math::
        FID = |m - m'|^2 + tr(C + C' - 2 (C C')^{1/2}),

    which is too large for few images. KID is the squared maximum mean
    discrepancy under the kernel :math:`(x \cdot y / 2048 + 1)^3`, unbiased
    and so possibly below 0: mean and deviation over 100 random subsets.

    Args:
        weights (str, optional): Path of the weights of torch-fidelity's
            Inception-v3. Defaults to None, the file of the published name in
            the folder of torch.hub.
        download (bool): Whether to download it to that folder, if it is not
            there. Defaults to False.
        kid_subset_size (int, optional): Number of images in a subset.
            Defaults to None, 100 or all of the smaller set; if that is all of
            both, ``KID_std`` is 0.
        **kwargs: See :class:`SynthesisMetric`.

    Raises:
        ValueError: If ``kid_subset_size`` is below 2 or above the number of
            images, there are fewer than 2, or the weights are unreadable or
            of another network.
    """

    packages = ('torchmetrics', 'torch_fidelity')
    figures = ('FID', 'KID', 'KID_std')

    def __init__(self,
                 weights: Optional[str] = None,
                 download: bool = False,
                 kid_subset_size: Optional[int] = None,
                 **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if kid_subset_size is not None and kid_subset_size < 2:
            raise ValueError(
                f'kid_subset_size must be >= 2, but got {kid_subset_size}')
        self.kid_subset_size = kid_subset_size
        # torchmetrics' own extractor resizes otherwise, with antialiasing.
        self.basis = (f'KID over subsets of {kid_subset_size or "at most 100"}, '
                      'features of Inception-v3, resized as by TensorFlow 1')
        self.network = self.load_network(
            inception_network, INCEPTION_URL, weights, download)

    def measure(self, sample: dict) -> dict:
        """Find the features of the real image and of the samples."""
        device = sample['samples'].device
        network = self.network.to(device)
        features = torch.cat([
            network(image.to(device)[None])[0]
            for image in (sample['gt_img'], *sample['samples'])
        ]).cpu()
        return dict(real=features[:1], fake=features[1:])

    def summarize(self, measures: List[dict]) -> Dict[str, float]:
        """Compute the distances between the two sets."""
        values = distances_of(measures, self.kid_subset_size, 'kid_subset_size')
        return dict(zip(self.figures, values, strict=True))


def distances_of(measures: List[dict], subset_size: Optional[int],
                 name: str) -> List[float]:
    """Compute the distances between real and synthesised features.

    Args:
        measures (List[dict]): Of each mask ``real`` (1, D), ``fake`` (K, D).
        subset_size (int, optional): Number of images in a subset of the
            kernel distance; None for 100 or all of the smaller set.
        name (str): What the user calls it.

    Returns:
        List[float]: Frechet distance, kernel distance and its deviation.

    Raises:
        ValueError: If there are too few images.
    """
    real, fake = (
        torch.cat([measure[key] for measure in measures]).double()
        for key in ('real', 'fake'))
    fewest = min(len(real), len(fake))
    subset_size = subset_size or max(2, min(100, fewest))
    if fewest < subset_size:
        raise ValueError(
            'a Frechet distance needs at least 2 real images and 2 samples, a '
            f'kernel distance {name} = {subset_size} of each, but got '
            f'{len(real)} and {len(fake)}')
    return [
        frechet_distance(real, fake), *kernel_distance(real, fake, subset_size)
    ]


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """Compute FID of features of shapes (N, D) and (M, D)."""
    from torchmetrics.image.fid import FrechetInceptionDistance
    both = torch.cat([real, fake])
    if len(both) < both.shape[1]:
        # Exactly the same in the subspace where all the features lie, without
        # the eigenvalues of a 2048 x 2048 matrix.
        basis = torch.linalg.qr(both.T).Q
        real, fake = real @ basis, fake @ basis
    return _compute(FrechetInceptionDistance, real, fake).item()


def kernel_distance(real: Tensor, fake: Tensor, subset_size: int) -> List[float]:
    """Compute mean and deviation of KID of features (N, D) and (M, D)."""
    from torchmetrics.image.kid import KernelInceptionDistance
    with torch.random.fork_rng(devices=[]):
        # Always the same subsets; manual_seed would also seed every GPU.
        torch.default_generator.manual_seed(0)
        return [
            value.item() for value in _compute(
                KernelInceptionDistance, real, fake, subset_size=subset_size)
        ]


def _compute(metric_type: type, real: Tensor, fake: Tensor, **kwargs: Any) -> Any:
    identity = nn.Identity()
    identity.num_features = real.shape[1]
    # Only the main process computes: the others would be waited for forever.
    metric = metric_type(identity, sync_on_compute=False, **kwargs)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    return metric.compute()
