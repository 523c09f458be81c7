"""Networks of pix2pixHD and SPADE, as far as mmagic has none."""

from typing import List, Optional, Sequence, Tuple

import torch
from mmagic.models.editors.cyclegan.cyclegan_modules import (
    ResidualBlockWithDropout,
)
from mmagic.models.utils import generation_init_weights
from mmagic.registry import MODELS
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


@MODELS.register_module()
class MultiScalePatchDiscriminator(BaseModule):
    """The same discriminator at several scales (pix2pixHD, Sec. 3.2).

    Args:
        patch (dict): Config of the discriminator at each scale, mmagic's
            ``PatchDiscriminator``.
        num_scales (int): Number of scales, each half of the one before.
            Defaults to 2.
        spectral (bool): Whether convolutions have spectral normalisation, as
            SPADE's. Defaults to False.
    """

    def __init__(self,
                 patch: dict,
                 num_scales: int = 2,
                 spectral: bool = False) -> None:
        super().__init__()
        self.scales = nn.ModuleList(
            [MODELS.build(patch) for _ in range(num_scales)])
        if spectral:
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    spectral_norm(module)

    def forward(self, x: Tensor) -> List[List[Tensor]]:
        """Judge images.

        Args:
            x (Tensor): Masks and images, shape (B, C, H, W).

        Returns:
            List[List[Tensor]]: For each scale the outputs of all layers, of
            which the last, shape (B, 1, h, w), judges patches.
        """
        found = []
        for scale in self.scales:
            outputs = [x]
            for layer in scale.model:
                outputs.append(layer(outputs[-1]))
            found.append(outputs[1:])
            x = nn.functional.avg_pool2d(
                x, 3, stride=2, padding=1, count_include_pad=False)
        return found

    def init_weights(self) -> None:
        """Initialise as mmagic's discriminator does."""
        for scale in self.scales:
            scale.init_weights()


@MODELS.register_module()
class GlobalGenerator(BaseModule):
    """The global generator G1 of pix2pixHD (Sec. 3.1 and 7.1).

    mmagic's ``ResnetGenerator`` with any number of downsamplings.

    Args:
        in_channels (int): Number of channels of the mask.
        base_channels (int): Number of channels at full size, doubled at every
            downsampling. Defaults to 64.
        num_down (int): Number of downsamplings. Defaults to 4.
        num_blocks (int): Number of residual blocks. Defaults to 9.
        norm_cfg (dict, optional): Normalisation. Defaults to None, of
            instances.
    """

    def __init__(self,
                 in_channels: int,
                 base_channels: int = 64,
                 num_down: int = 4,
                 num_blocks: int = 9,
                 norm_cfg: Optional[dict] = None) -> None:
        super().__init__()
        self.num_down = num_down
        cfg = dict(norm_cfg=norm_cfg or dict(type='IN'))
        widths = [base_channels * 2**i for i in range(num_down + 1)]
        pairs = list(zip(widths, widths[1:], strict=False))
        edge = dict(kernel_size=7, padding=3, padding_mode='reflect')
        self.model = nn.Sequential(
            ConvModule(in_channels, base_channels, **edge, **cfg), *(
                ConvModule(fine, coarse, 3, stride=2, padding=1, **cfg)
                for fine, coarse in pairs), *(ResidualBlockWithDropout(
                    widths[-1], 'reflect', use_dropout=False, **cfg)
                                              for _ in range(num_blocks)),
            *(ConvModule(
                coarse,
                fine,
                3,
                stride=2,
                padding=1,
                conv_cfg=dict(type='deconv', output_padding=1),
                **cfg) for fine, coarse in reversed(pairs)),
            ConvModule(base_channels, 3, act_cfg=dict(type='Tanh'), **edge))

    def forward(self, mask: Tensor) -> Tensor:
        """Draw images.

        Args:
            mask (Tensor): One-hot masks, shape (B, C, H, W).

        Returns:
            Tensor: RGB in [-1, 1], shape (B, 3, H, W).

        Raises:
            ValueError: If H or W is no multiple of 2^num_down.
        """
        if any(side % 2**self.num_down for side in mask.shape[-2:]):
            raise ValueError(
                'height and width must be multiples of 2^num_down = '
                f'{2**self.num_down}, but got {tuple(mask.shape[-2:])}: set '
                'size_divisor of the model')
        return self.model(mask)

    def init_weights(self) -> None:
        """Initialise as the authors do, by a normal law of deviation 0.02."""
        generation_init_weights(self)


class SpatiallyAdaptiveNorm(nn.Module):
    r"""Normalise, and scale and shift by the mask (SPADE, Eq. 1).

    .. math::
        (1 + \gamma(m)) \frac{h - \mu}{\sigma} + \beta(m)

    Args:
        channels (int): Number of channels of the features.
        mask_channels (int): Number of channels of the mask.
        hidden_channels (int): Width between mask and gamma, beta.
    """

    def __init__(self, channels: int, mask_channels: int,
                 hidden_channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.hidden = nn.Sequential(
            nn.Conv2d(mask_channels, hidden_channels, 3, padding=1), nn.ReLU())
        self.gamma = nn.Conv2d(hidden_channels, channels, 3, padding=1)
        self.beta = nn.Conv2d(hidden_channels, channels, 3, padding=1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Modulate features (B, C, h, w) by a mask (B, M, H, W)."""
        hidden = self.hidden(nn.functional.interpolate(mask, x.shape[-2:]))
        return (1 + self.gamma(hidden)) * self.norm(x) + self.beta(hidden)


class SPADEResBlock(nn.Module):
    """Residual block of SPADE (Fig. 4), of spectrally normal convolutions.

    Args:
        in_channels (int): Number of channels it takes.
        out_channels (int): Number of channels it returns; if it is another,
            the shortcut is learned too.
        mask_channels (int): Number of channels of the mask.
        hidden_channels (int): See :class:`SpatiallyAdaptiveNorm`.
    """

    def __init__(self, in_channels: int, out_channels: int, mask_channels: int,
                 hidden_channels: int) -> None:
        super().__init__()
        middle = min(in_channels, out_channels)
        of_mask = (mask_channels, hidden_channels)
        self.norm_0 = SpatiallyAdaptiveNorm(in_channels, *of_mask)
        self.conv_0 = spectral_norm(
            nn.Conv2d(in_channels, middle, 3, padding=1))
        self.norm_1 = SpatiallyAdaptiveNorm(middle, *of_mask)
        self.conv_1 = spectral_norm(
            nn.Conv2d(middle, out_channels, 3, padding=1))
        self.learned_shortcut = in_channels != out_channels
        if self.learned_shortcut:
            self.norm_s = SpatiallyAdaptiveNorm(in_channels, *of_mask)
            self.conv_s = spectral_norm(
                nn.Conv2d(in_channels, out_channels, 1, bias=False))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map features (B, C, h, w), mask (B, M, H, W) to (B, C', h, w)."""
        dx = self.conv_0(_leaky(self.norm_0(x, mask)))
        dx = self.conv_1(_leaky(self.norm_1(dx, mask)))
        if self.learned_shortcut:
            x = self.conv_s(self.norm_s(x, mask))
        return x + dx


@MODELS.register_module()
class SPADEGenerator(BaseModule):
    """Images from noise z, modulated by the mask (SPADE, Sec. 3 and App. A).

    A linear layer makes of z the coarsest features, and they double their
    size between any two residual blocks. The paper's at 256 x 256 has
    ``channels=(1024, 1024, 1024, 512, 256, 128, 64)``.

    Args:
        size (Tuple[int, int]): Height and width of the images, multiples of
            2^(len(channels) - 1).
        mask_channels (int): Number of channels of the mask.
        channels (Sequence[int]): Widths of the blocks from coarse to fine.
        z_channels (int): Length of z. Defaults to 256.
        hidden_channels (int): See :class:`SpatiallyAdaptiveNorm`. Defaults to
            128.

    Raises:
        ValueError: If ``size`` breaks its rule.
    """

    def __init__(self,
                 size: Tuple[int, int],
                 mask_channels: int,
                 channels: Sequence[int],
                 z_channels: int = 256,
                 hidden_channels: int = 128) -> None:
        super().__init__()
        factor = 2**(len(channels) - 1)
        if any(side % factor for side in size):
            raise ValueError('size must be multiples of 2^(len(channels) - 1) '
                             f'= {factor}, but got {tuple(size)}')
        self.size = tuple(size)
        self.z_channels = z_channels
        coarsest = (channels[0], size[0] // factor, size[1] // factor)
        self.start = nn.Sequential(
            nn.Linear(z_channels, coarsest[0] * coarsest[1] * coarsest[2]),
            nn.Unflatten(1, coarsest))
        self.blocks = nn.ModuleList([
            SPADEResBlock(*widths, mask_channels, hidden_channels)
            for widths in zip((channels[0], *channels), channels, strict=False)
        ])
        self.to_image = nn.Conv2d(channels[-1], 3, 3, padding=1)

    def forward(self, mask: Tensor, z: Optional[Tensor] = None) -> Tensor:
        """Draw images.

        Args:
            mask (Tensor): One-hot masks, shape (B, mask_channels, H, W).
            z (Tensor, optional): Noise, shape (B, z_channels). Defaults to
                None, which draws it from torch's generator of the CPU.

        Returns:
            Tensor: RGB in [-1, 1], shape (B, 3, H, W).

        Raises:
            ValueError: If the masks are not of ``size``.
        """
        if tuple(mask.shape[-2:]) != self.size:
            raise ValueError(
                f'masks must be of size={self.size} for this SPADEGenerator, '
                f'but got {tuple(mask.shape[-2:])}: set size in the test_cfg, '
                'crop_size in the train_pipeline')
        if z is None:
            z = torch.randn(len(mask), self.z_channels).to(mask)
        x = self.start(z)
        for i, block in enumerate(self.blocks):
            if i > 0:
                x = nn.functional.interpolate(x, scale_factor=2)
            x = block(x, mask)
        return self.to_image(_leaky(x)).tanh()

    def init_weights(self) -> None:
        """Initialise as the authors do; what is spectrally normal has none."""
        generation_init_weights(self, 'xavier', 0.02)


def _leaky(x: Tensor) -> Tensor:
    return nn.functional.leaky_relu(x, 0.2)
