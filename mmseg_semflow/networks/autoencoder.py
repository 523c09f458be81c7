"""Frozen autoencoders between pixels and latents."""

import json
from abc import abstractmethod
from dataclasses import dataclass
from typing import List, Optional

import torch
from torch import Tensor, nn

from mmseg_semflow.arguments import checked, naming
from mmseg_semflow.registry import MODELS, BaseModule

from .pretrained import digest_weights, load_part


@dataclass
class LatentGaussian:
    """The distribution of a latent given the pixels.

    Attributes:
        mean (Tensor): Mean, which is the mode, shape (B, C, h, w), scaled.
        std (Tensor): Standard deviation of the same shape, scaled.
    """

    mean: Tensor
    std: Tensor

    def chunk(self, chunks: int) -> List['LatentGaussian']:
        """Split the batch into equal parts."""
        pairs = zip(
            self.mean.chunk(chunks), self.std.chunk(chunks), strict=True)
        return [LatentGaussian(mean, std) for mean, std in pairs]

    def sample(self) -> Tensor:
        """Sample a latent, shape (B, C, h, w)."""
        return self.mean + self.std * torch.randn_like(self.mean)


class FrozenAutoencoder(BaseModule):
    """Base of the autoencoders: never trained, always in eval mode.

    Latents leave :meth:`encode` scaled to about unit variance and enter
    :meth:`decode` like that; nothing else knows the scale.

    Args:
        factor (int): Pixels per latent cell, along each side.
        latent_channels (int): Number of channels C of the latents.
    """

    def __init__(self, factor: int, latent_channels: int) -> None:
        super().__init__()
        self.factor = factor
        self.latent_channels = latent_channels

    def train(self, mode: bool = True) -> 'FrozenAutoencoder':
        """Stay in eval mode."""
        return super().train(False)

    @property
    def settings(self) -> dict:
        """dict: What latents depend on besides pixels and weights."""
        return dict(factor=self.factor, latent_channels=self.latent_channels)

    def identity(self) -> dict:
        """Tell what latents depend on besides pixels.

        Returns:
            dict: ``type``; ``settings``, as json has them; and ``weights``,
            the SHA-256 of the names, shapes and bytes of the state dict, as
            it is and rounded to bfloat16, by the names of these types.
        """
        state_dict = self.state_dict()
        own = next((v.dtype for v in state_dict.values()), torch.float32)
        return dict(
            type=type(self).__name__,
            settings=json.loads(json.dumps(self.settings)),
            weights={
                str(dtype).removeprefix('torch.'): digest_weights(state_dict, dtype)
                for dtype in (own, torch.bfloat16)
            })

    def check_size(self, pixels: Tensor) -> None:
        """Raise a ValueError if pixels (B, 3, H, W) do not fit the factor."""
        height, width = pixels.shape[-2:]
        if height % self.factor or width % self.factor:
            raise ValueError(
                f'images of {height}x{width} (height x width) do not fit '
                f'the autoencoder: both must be multiples of {self.factor}. '
                'Change the Resize or RandomCrop of the pipeline, or let the '
                f'data_preprocessor pad: size_divisor={self.factor} for '
                f'training, test_cfg=dict(size_divisor={self.factor}) for tests')

    @abstractmethod
    def encode(self, pixels: Tensor) -> LatentGaussian:
        """Encode pixels.

        Args:
            pixels (Tensor): Images or pseudo masks in [-1, 1], shape
                (B, 3, H, W), H and W multiples of ``factor``.

        Returns:
            LatentGaussian: Scaled latents, float32.

        Raises:
            ValueError: If H or W is not a multiple of ``factor``.
        """

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """Decode scaled latents.

        Args:
            z (Tensor): Scaled latents, shape (B, C, h, w).

        Returns:
            Tensor: Pixels, float32, about [-1, 1], shape (B, 3, H, W).
        """


class DiffusersAutoencoder(FrozenAutoencoder):
    """Base of the autoencoders that are classes of diffusers.

    Args:
        net (nn.Module): The autoencoder, its weights random.
        factor (int): Pixels per latent cell, along each side.
        sd_folder (str, optional): Folder in diffusers' layout from which
            ``init_weights`` takes the weights of ``vae/``. Defaults to None, random
            weights.
    """

    def __init__(self,
                 net: nn.Module,
                 factor: int,
                 sd_folder: Optional[str] = None) -> None:
        super().__init__(
            factor=factor, latent_channels=net.config.latent_channels)
        # Image by image: a paper-size batch of pixels does not fit a GPU.
        net.enable_slicing()
        self.vae = net.requires_grad_(False)
        self.sd_folder = sd_folder
        self.train(False)

    @property
    def settings(self) -> dict:
        """dict: See :attr:`FrozenAutoencoder.settings`."""
        vae = {k: v for k, v in self.vae.config.items() if k[0] != '_'}
        return dict(super().settings, vae=vae)

    def init_weights(self) -> None:
        """Load the pretrained weights that the config names.

        Raises:
            FileNotFoundError: If ``sd_folder`` is not there.
            ValueError: If it holds another architecture.
        """
        if self.sd_folder is not None:
            load_part(self.vae, self.sd_folder, 'vae')


def _kl_factor(net: nn.Module) -> int:
    return 2**(len(net.config.block_out_channels) - 1)


@MODELS.register_module()
@checked
class KLAutoencoder(DiffusersAutoencoder):
    """The variational autoencoder of Stable Diffusion or FLUX.1, frozen.

    Scale and shift of the latents are read from the VAE's own config: Stable
    Diffusion 3 and FLUX.1 have both, and 16 channels.

    Args:
        vae (dict): Arguments of diffusers' ``AutoencoderKL``.
        sd_folder (str, optional): See :class:`DiffusersAutoencoder`. Defaults to
            None.
    """

    def __init__(self, vae: dict, sd_folder: Optional[str] = None) -> None:
        from diffusers import AutoencoderKL
        net = naming('vae', AutoencoderKL, **vae)
        super().__init__(net, _kl_factor(net), sd_folder)
        self.scale = net.config.scaling_factor
        self.shift = net.config.get('shift_factor') or 0.

    def encode(self, pixels: Tensor) -> LatentGaussian:
        """See :meth:`FrozenAutoencoder.encode`."""
        self.check_size(pixels)
        posterior = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist
        return LatentGaussian(
            mean=(posterior.mean.float() - self.shift) * self.scale,
            std=posterior.std.float() * self.scale)

    def decode(self, z: Tensor) -> Tensor:
        """See :meth:`FrozenAutoencoder.decode`."""
        z = z / self.scale + self.shift
        return self.vae.decode(z.to(self.vae.dtype)).sample.float()


@MODELS.register_module()
@checked
class Flux2Autoencoder(DiffusersAutoencoder):
    """The variational autoencoder of FLUX.2, frozen.

    Its latents are normalised by mean and variance of every channel of patches of
    2 x 2, which are among its weights. Here they keep their 32 channels and factor
    8, each cell normalised by its place in the patch; the transformer packs them.

    Args:
        vae (dict): Arguments of diffusers' ``AutoencoderKLFlux2``.
        sd_folder (str, optional): See :class:`DiffusersAutoencoder`. Defaults to
            None.
    """

    def __init__(self, vae: dict, sd_folder: Optional[str] = None) -> None:
        from diffusers import AutoencoderKLFlux2
        net = naming('vae', AutoencoderKLFlux2, **vae)
        super().__init__(net, _kl_factor(net), sd_folder)

    def _moments(self, z: Tensor) -> List[Tensor]:
        """Give mean and deviation of every cell, each of shape (1, C, h, w)."""
        norm, (height, width) = self.vae.bn, z.shape[-2:]
        variance = norm.running_var.float() + self.vae.config.batch_norm_eps
        patches = (
            nn.functional.pixel_shuffle(values.view(1, -1, 1, 1), 2)
            for values in (norm.running_mean.float(), variance.sqrt()))
        # Odd sizes end in half a patch.
        return [
            patch.repeat(1, 1, -(-height // 2), -(-width // 2))[..., :height, :width]
            for patch in patches
        ]

    def encode(self, pixels: Tensor) -> LatentGaussian:
        """See :meth:`FrozenAutoencoder.encode`."""
        self.check_size(pixels)
        posterior = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist
        shift, scale = self._moments(posterior.mean)
        return LatentGaussian(
            mean=(posterior.mean.float() - shift) / scale,
            std=posterior.std.float() / scale)

    def decode(self, z: Tensor) -> Tensor:
        """See :meth:`FrozenAutoencoder.decode`."""
        shift, scale = self._moments(z)
        z = z * scale + shift
        return self.vae.decode(z.to(self.vae.dtype)).sample.float()


@MODELS.register_module()
@checked
class DCAutoencoder(DiffusersAutoencoder):
    """The deep compression autoencoder of SANA, frozen.

    Chen et al., "Deep Compression Autoencoder" (ICLR 2025): a cell is of 32 x 32
    pixels. It is deterministic.

    Args:
        vae (dict): Arguments of diffusers' ``AutoencoderDC``.
        sd_folder (str, optional): See :class:`DiffusersAutoencoder`. Defaults to
            None.
    """

    def __init__(self, vae: dict, sd_folder: Optional[str] = None) -> None:
        from diffusers import AutoencoderDC
        net = naming('vae', AutoencoderDC, **vae)
        super().__init__(net, net.spatial_compression_ratio, sd_folder)
        self.scale = net.config.scaling_factor

    def encode(self, pixels: Tensor) -> LatentGaussian:
        """See :meth:`FrozenAutoencoder.encode`; the deviation is zero."""
        self.check_size(pixels)
        latent = self.vae.encode(pixels.to(self.vae.dtype)).latent.float()
        return LatentGaussian(
            mean=latent * self.scale, std=torch.zeros_like(latent))

    def decode(self, z: Tensor) -> Tensor:
        """See :meth:`FrozenAutoencoder.decode`."""
        return self.vae.decode((z / self.scale).to(self.vae.dtype)).sample.float()


@MODELS.register_module()
@checked
class PatchAutoencoder(FrozenAutoencoder):
    """A lossless autoencoder without weights: patches become channels.

    Pixel-unshuffle (Shi et al., CVPR 2016) and its inverse. With it SemFlow
    trains from nothing, on small images.

    Args:
        factor (int): Side of a patch in pixels. The latents have
            3 factor^2 channels.

    Raises:
        ValueError: If ``factor`` is below 1.
    """

    def __init__(self, factor: int) -> None:
        if factor < 1:
            raise ValueError(f'factor must be >= 1, but got {factor}')
        super().__init__(factor=factor, latent_channels=3 * factor**2)

    def encode(self, pixels: Tensor) -> LatentGaussian:
        """See :meth:`FrozenAutoencoder.encode`; the deviation is zero."""
        self.check_size(pixels)
        mean = nn.functional.pixel_unshuffle(pixels.float(), self.factor)
        return LatentGaussian(mean=mean, std=torch.zeros_like(mean))

    def decode(self, z: Tensor) -> Tensor:
        """See :meth:`FrozenAutoencoder.decode`; inverts encode exactly."""
        return nn.functional.pixel_shuffle(z.float(), self.factor)
