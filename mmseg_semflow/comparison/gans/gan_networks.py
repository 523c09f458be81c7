"""Networks of pix2pixHD, SPADE and SC-GAN, as far as mmagic has none."""

from functools import partial
from typing import Callable, List, Optional, Sequence, Tuple

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
        """Synthesise images.

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
                 hidden_channels: int, **kwargs: int) -> None:
        super().__init__()
        adaptive_norm = partial(
            SpatiallyAdaptiveNorm,
            mask_channels=mask_channels,
            hidden_channels=hidden_channels)
        norm, conv, shortcut = self.parts(adaptive_norm, **kwargs)
        middle = min(in_channels, out_channels)
        self.norm_0 = norm(in_channels)
        self.conv_0 = conv(in_channels, middle)
        self.norm_1 = norm(middle)
        self.conv_1 = conv(middle, out_channels)
        self.learned_shortcut = in_channels != out_channels
        if self.learned_shortcut:
            self.norm_s = adaptive_norm(in_channels)
            self.conv_s = spectral_norm(shortcut(in_channels, out_channels))

    @staticmethod
    def parts(adaptive_norm: Callable[[int], nn.Module]) -> tuple:
        """Tell what makes norms and convolutions, and the shortcut's."""
        return (adaptive_norm, lambda *channels: spectral_norm(
            nn.Conv2d(*channels, 3, padding=1)),
                partial(nn.Conv2d, kernel_size=1, bias=False))

    def forward(self, x: Tensor, mask: Tensor, *weights: Tensor) -> Tensor:
        """Map features (B, C, h, w) to (B, C', h, w).

        Args:
            x (Tensor): The features.
            mask (Tensor): The mask, shape (B, M, H, W).
            *weights (Tensor): What the main way sees in its place, if
                anything: for SC-GAN those of the candidates, shape
                (B, n, h, w).

        Returns:
            Tensor: The features.
        """
        seen = weights or (mask, )
        dx = self.conv_0(_leaky(self.norm_0(x, *seen)), *weights)
        dx = self.conv_1(_leaky(self.norm_1(dx, *seen)), *weights)
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
        block (Callable): Makes a residual block, called as
            :class:`SPADEResBlock`, the default.

    Attributes:
        squash (Callable): Brings images into [-1, 1].

    Raises:
        ValueError: If ``size`` breaks its rule.
    """

    squash = staticmethod(torch.tanh)

    def __init__(self,
                 size: Tuple[int, int],
                 mask_channels: int,
                 channels: Sequence[int],
                 z_channels: int = 256,
                 hidden_channels: int = 128,
                 block: Callable[..., nn.Module] = SPADEResBlock) -> None:
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
            block(*widths, mask_channels, hidden_channels)
            for widths in zip((channels[0], *channels), channels, strict=False)
        ])
        self.to_image = nn.Conv2d(channels[-1], 3, 3, padding=1)

    def forward(self, mask: Tensor, z: Optional[Tensor] = None) -> Tensor:
        """Synthesise images.

        Args:
            mask (Tensor): One-hot masks, shape (B, mask_channels, H, W).
            z (Tensor, optional): Noise, shape (B, z_channels). Defaults to
                None, which samples it by torch's generator of the CPU.

        Returns:
            Tensor: RGB in [-1, 1], shape (B, 3, H, W).

        Raises:
            ValueError: If the masks are not of ``size``.
        """
        if tuple(mask.shape[-2:]) != self.size:
            raise ValueError(
                f'masks must be of size={self.size} for this '
                f'{type(self).__name__}, but got {tuple(mask.shape[-2:])}: set '
                'size in the test_cfg, crop_size in the train_pipeline')
        if z is None:
            z = torch.randn(len(mask), self.z_channels).to(mask)
        x = self.start(z)
        for i, (block, condition) in enumerate(
                zip(self.blocks, self.conditions(mask), strict=True)):
            if i > 0:
                x = nn.functional.interpolate(x, scale_factor=2)
            x = block(x, *condition)
        return self.squash(self.to_image(_leaky(x)))

    def conditions(self, mask: Tensor) -> List[Tuple[Tensor, ...]]:
        """Make of masks what each block takes beside its features."""
        return [(mask, )] * len(self.blocks)

    def init_weights(self) -> None:
        """Initialise as the authors do; what is spectrally normal has none."""
        generation_init_weights(self, 'xavier', 0.02)


class SpatiallyConditionalConv(nn.Module):
    r"""Convolve by another kernel at every position (SC-GAN, Sec. 3.2).

    .. math::
        y_p = \left( \sum_{i=1}^n v_{i,p} k_i * x \right)_p

    with the weights v of the position p and candidates :math:`k_i`, which are
    spectrally normal and have no bias. Convolutions are linear in the kernel,
    so it convolves by each candidate and weighs what they return.

    Args:
        in_channels (int): Number of channels it takes.
        out_channels (int): Number of channels it returns.
        num_candidates (int): Number n of kernels, each 3 x 3.
    """

    def __init__(self, in_channels: int, out_channels: int,
                 num_candidates: int) -> None:
        super().__init__()
        self.candidates = nn.ModuleList([
            spectral_norm(
                nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False))
            for _ in range(num_candidates)
        ])

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """Map features (B, C, h, w), weights (B, n, h, w) to (B, C', h, w)."""
        kernels = torch.cat([conv.weight for conv in self.candidates])
        found = nn.functional.conv2d(x, kernels, padding=1)
        found = found.unflatten(1, (len(self.candidates), -1))
        return (weights[:, :, None] * found).sum(1)


class SpatiallyConditionalNorm(nn.Module):
    r"""Normalise, and scale and shift by candidates (SC-GAN, Sec. 3.2).

    .. math::
        \left( 1 + \sum_{i=1}^n v_{i,p} s_i \right)
            \frac{h_p - \mu}{\sigma} + \sum_{i=1}^n v_{i,p} m_i

    with the weights v of the position p and candidates :math:`s_i, m_i`, which
    are 0 at first.

    Args:
        channels (int): Number of channels of the features.
        num_candidates (int): Number n of pairs of scale and shift.
    """

    def __init__(self, channels: int, num_candidates: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.candidates = nn.Parameter(
            torch.zeros(num_candidates, 2 * channels))

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """Modulate features (B, C, h, w) by weights (B, n, h, w)."""
        scale, shift = torch.einsum('bnhw,nc->bchw', weights,
                                    self.candidates).chunk(2, 1)
        return (1 + scale) * self.norm(x) + shift


class SCResBlock(SPADEResBlock):
    """Residual block of SC-GAN (Sec. 3.2), the SCB.

    As :class:`SPADEResBlock`, but on the main way the weights of the semantic
    vectors make kernels, scales and shifts. As in the authors' code a learned
    shortcut has SPADE's normalisation and a fixed 3 x 3 kernel.

    Args:
        *args: Arguments of :class:`SPADEResBlock`.
        num_candidates (int): See :class:`SpatiallyConditionalConv`.
    """

    @staticmethod
    def parts(adaptive_norm: Callable[[int], nn.Module],
              num_candidates: int) -> tuple:
        """See :meth:`SPADEResBlock.parts`."""
        norm, conv = (
            partial(part, num_candidates=num_candidates)
            for part in (SpatiallyConditionalNorm, SpatiallyConditionalConv))
        return norm, conv, partial(nn.Conv2d, kernel_size=3, padding=1)


class SemanticVectorGenerator(nn.Module):
    """Semantic vectors of a mask, and what they tell of the image (SC-GAN).

    The SVG of Fig. 2: two convolutions per scale, on the mask and on the vectors
    of the scale before. It also regresses the image, which the loss compares
    with the real one, so that the vectors of things that look alike are alike.

    Args:
        mask_channels (int): Number of channels of the mask.
        channels (Sequence[int]): Lengths of the vectors from coarse to fine,
            each scale twice the one before.
    """

    def __init__(self, mask_channels: int, channels: Sequence[int]) -> None:
        super().__init__()
        conv = partial(nn.Conv2d, kernel_size=3, padding=1)
        self.scales = nn.ModuleList([
            nn.Sequential(
                conv(before + mask_channels, width), nn.LeakyReLU(0.2),
                conv(width, width))
            for before, width in zip((0, *channels), channels, strict=False)
        ])
        self.to_image = nn.Sequential(
            conv(channels[-1], channels[-1] // 2), nn.LeakyReLU(0.2),
            conv(channels[-1] // 2, 3), nn.Hardtanh())

    def forward(self, mask: Tensor) -> List[Tensor]:
        """Make the vectors of all scales.

        Args:
            mask (Tensor): One-hot masks, shape (B, mask_channels, H, W).

        Returns:
            List[Tensor]: From coarse to fine, each of shape (B, C, h, w), the
            last with h = H and w = W.
        """
        masks = [mask]
        for _ in self.scales[1:]:
            masks.append(nn.functional.avg_pool2d(masks[-1], 2))
        vectors: List[Tensor] = []
        for x, scale in zip(reversed(masks), self.scales, strict=True):
            if vectors:
                before = nn.functional.interpolate(
                    _leaky(vectors[-1]), scale_factor=2)
                x = torch.cat([before, x], 1)
            vectors.append(scale(x))
        return vectors

    def regress(self, mask: Tensor) -> Tensor:
        """Guess images (B, 3, H, W), in [-1, 1], from one-hot masks."""
        return self.to_image(self(mask)[-1])


@MODELS.register_module()
class SCGANGenerator(SPADEGenerator):
    r"""Images from noise z by weights of every position (SC-GAN, Fig. 2).

    The SRG: SPADE's generator, of which kernels, scales and shifts are mixed
    at every position of candidates that all positions share. The weights are
    those of the semantic vector V of the position, whose channels are averaged
    in n groups, as in the authors' code:

    .. math::
        v_p = \mathrm{softmax}(\tau \, \mathrm{pool}_n(V_p))

    The structure is the paper's (Fig. 2); what its figures leave open, and the
    defaults, are the authors' code for CelebAMask-HQ. That has
    ``channels=(768, 768, 384, 192, 96, 48)`` and ``vector_channels=(512, 256,
    128, 64, 32, 32)``, with a third block of 768 channels at the
    second scale, here one per scale. Also left out: the codes of positions
    that it has in the masks of that data set.

    Args:
        size (Tuple[int, int]): See :class:`SPADEGenerator`.
        mask_channels (int): Number of channels of the mask.
        channels (Sequence[int]): Widths of the blocks from coarse to fine.
        vector_channels (Sequence[int]): Lengths of the semantic vectors from
            coarse to fine, one per block.
        num_candidates (int): Number n of kernels, scales and shifts of which
            a position mixes its own. Defaults to 3.
        temperature (float): The factor tau. Defaults to 0.05.
        **kwargs: ``z_channels`` and ``hidden_channels`` of
            :class:`SPADEGenerator`.

    Raises:
        ValueError: If ``size`` breaks its rule, or there are not as many
            ``vector_channels`` as ``channels``.
    """

    squash = staticmethod(nn.functional.hardtanh)

    def __init__(self,
                 size: Tuple[int, int],
                 mask_channels: int,
                 channels: Sequence[int],
                 vector_channels: Sequence[int],
                 num_candidates: int = 3,
                 temperature: float = 0.05,
                 **kwargs: int) -> None:
        if len(vector_channels) != len(channels):
            raise ValueError(
                'vector_channels must be as many as channels, '
                f'{len(channels)}, but got {tuple(vector_channels)}')
        super().__init__(
            size,
            mask_channels,
            channels,
            block=partial(SCResBlock, num_candidates=num_candidates),
            **kwargs)
        self.num_candidates = num_candidates
        self.temperature = temperature
        self.vectors = SemanticVectorGenerator(mask_channels, vector_channels)

    def conditions(self, mask: Tensor) -> List[Tuple[Tensor, ...]]:
        """Make of masks the mask and the weights for each block."""
        pooled = (
            nn.functional.adaptive_avg_pool3d(
                vectors, (self.num_candidates, None, None))
            for vectors in self.vectors(mask))
        return [(mask, (self.temperature * x).softmax(1)) for x in pooled]


def _leaky(x: Tensor) -> Tensor:
    return nn.functional.leaky_relu(x, 0.2)
