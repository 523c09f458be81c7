"""How different two pictures look to a frozen network."""

from abc import abstractmethod
from functools import partial
from typing import List, Optional, Sequence

import torch
from torch import Tensor, nn

from mmseg_semflow.arguments import checked
from mmseg_semflow.networks.features import (
    LPIPS_TRUNKS,
    lpips_network,
    published_network,
)
from mmseg_semflow.registry import MODELS


class FrozenNetworkLoss(nn.Module):
    """Base of the losses by a frozen network.

    Its weights are not those of the model: checkpoints and averages do not hold
    them, and only training needs them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._network: List[nn.Module] = []  # in a list, so that it is no child

    @abstractmethod
    def make_network(self) -> nn.Module:
        """Build the frozen network."""

    @abstractmethod
    def forward(self, pixels: Tensor, target: Tensor) -> Tensor:
        """Compute the difference.

        Args:
            pixels (Tensor): RGB, about [-1, 1], shape (B, 3, H, W).
            target (Tensor): The same; no gradient passes to it.

        Returns:
            Tensor: A scalar.
        """

    def build_network(self) -> nn.Module:
        """Give the frozen network, built by the first call."""
        if not self._network:
            self._network.append(self.make_network())
        return self._network[0]

    def train(self, mode: bool = True) -> 'FrozenNetworkLoss':
        """Switch the mode; for training the network must be at hand."""
        if mode:
            self.build_network()
        return super().train(mode)


@MODELS.register_module()
class FeatureLoss(FrozenNetworkLoss):
    r"""Mean squared difference of normalised features of two batches.

    .. math:: \frac{1}{L} \sum_l w_l E\left|\frac{f_l(x)}{|f_l(x)|} -
        \frac{f_l(y)}{|f_l(y)|}\right|^2 + c \, E|\bar{x} - \bar{y}|

    with the norms over the channels of a place, as in LPIPS (Zhang et al.,
    CVPR 2018, Eq. 1) without its learned weights, and means of the pixels over
    squares of 8: normalised features hardly see light. For ``loss`` of an
    :class:`OneStepImageLoss`.

    Args:
        network (dict): Config of a :class:`FeatureNetwork`. Defaults to
            ``dict(type='EfficientNetLiteFeatures')``.
        layer_weights (Sequence[float], optional): Weights w of the maps of
            the network, from the first. Defaults to None, 1 for all.
        colour_weight (float): Weight c of the means of the pixels, at least 0.
            Defaults to 0.

    Raises:
        ValueError: If ``colour_weight`` is below 0.
    """

    def __init__(self,
                 network: Optional[dict] = None,
                 layer_weights: Optional[Sequence[float]] = None,
                 colour_weight: float = 0.) -> None:
        super().__init__()
        if not colour_weight >= 0:
            raise ValueError('colour_weight of FeatureLoss must be >= 0, but got '
                             f'{colour_weight!r}')
        self.network_cfg = network or dict(type='EfficientNetLiteFeatures')
        self.layer_weights = layer_weights
        self.colour_weight = colour_weight

    def make_network(self) -> nn.Module:
        """See :meth:`FrozenNetworkLoss.make_network`."""
        return MODELS.build(self.network_cfg)

    def forward(self, pixels: Tensor, target: Tensor) -> Tensor:
        """See :meth:`FrozenNetworkLoss.forward`.

        Raises:
            ValueError: If there are more or fewer weights than maps.
        """
        network = self.build_network().to(pixels.device)
        with torch.no_grad():
            wanted = network(target)
        found = network(pixels)
        weights = self.layer_weights or [1.] * len(found)
        if len(weights) != len(found):
            raise ValueError(
                f'layer_weights of FeatureLoss must have {len(found)} values, one '
                f'for each map of the network, but got {len(weights)}')
        differences = [
            weight * (nn.functional.normalize(one, dim=1) -
                      nn.functional.normalize(other, dim=1)).square().sum(1).mean()
            for weight, one, other in zip(weights, found, wanted, strict=True)
        ]
        loss = torch.stack(differences).mean()
        if self.colour_weight:
            means = (nn.functional.avg_pool2d(x, 8) for x in (pixels, target))
            loss = loss + self.colour_weight * nn.functional.l1_loss(*means)
        return loss


@MODELS.register_module()
@checked
class LPIPSLoss(FrozenNetworkLoss):
    """Mean LPIPS (Zhang et al., CVPR 2018), version 0.1, of two batches.

    With its learned weights, which come with the package ``lpips``. For
    ``loss`` of an :class:`OneStepImageLoss`.

    Args:
        weights (str): Path of torchvision's weights of the trunk, read when
            training begins.
        net (str): Trunk, ``'alex'`` or ``'vgg'``, which LPIPS' authors
            recommend for training. Defaults to ``'vgg'``.

    Raises:
        ValueError: If ``net`` is unknown; when training begins, if the file is
            of another network.
        FileNotFoundError: When training begins, if there is no such file.
        MissingExtraError: When training begins, if lpips is not installed.
    """

    def __init__(self, weights: str, net: str = 'vgg') -> None:
        super().__init__()
        if net not in LPIPS_TRUNKS:
            raise ValueError(f'net of LPIPSLoss must be one of {sorted(LPIPS_TRUNKS)}, '
                             f'but got {net!r}')
        self.net = net
        self.weights = weights

    def make_network(self) -> nn.Module:
        """See :meth:`FrozenNetworkLoss.make_network`."""
        return published_network(
            type(self).__name__, 'lpips', partial(lpips_network, self.net),
            self.weights, LPIPS_TRUNKS[self.net][0])

    def forward(self, pixels: Tensor, target: Tensor) -> Tensor:
        """See :meth:`FrozenNetworkLoss.forward`.

        Raises:
            ValueError: If the pictures are too small for the network.
        """
        least = LPIPS_TRUNKS[self.net][1]
        if min(pixels.shape[-2:]) < least:
            raise ValueError(
                f'height and width must be >= {least} pixels for LPIPSLoss with '
                f'net={self.net!r}, but got {tuple(pixels.shape[-2:])}')
        network = self.build_network().to(pixels.device)
        return network(pixels, target.detach()).mean()
