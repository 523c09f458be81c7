"""The TAESD family of tiny autoencoders, frozen."""

from functools import partial
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Union

import torch
from torch import Tensor, nn

from mmseg_semflow.arguments import checked
from mmseg_semflow.registry import MODELS

from .autoencoder import FrozenAutoencoder, LatentGaussian
from .pretrained import load_matching, read_weights

WIDTH = 64
# Blocks of the four levels, from the pixels to the latents.
BLOCKS = (1, 3, 3, 3)
SUFFIXES = ('.safetensors', '.pth')
DIFFUSERS_FILE = 'diffusion_pytorch_model.safetensors'
# By channels of the latents, and whether the blocks beside them pool.
MEMBERS = {
    (4, False): 'TAESD or TAESDXL',
    (16, False): 'TAESD3 or TAEF1',
    (32, True): 'TAEF2'
}
convolution = partial(nn.Conv2d, kernel_size=3, padding=1)


class _Block(nn.Module):
    """Three convolutions beside a shortcut; with ``pool`` after a bottleneck.

    The bottleneck normalises over all cells, so that what it adds depends on
    the whole picture.
    """

    def __init__(self, pool: bool = False) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            convolution(WIDTH, WIDTH), nn.ReLU(), convolution(WIDTH, WIDTH),
            nn.ReLU(), convolution(WIDTH, WIDTH))
        self.pool = nn.Sequential(
            nn.Conv2d(WIDTH, 4 * WIDTH, 1, bias=False),
            nn.GroupNorm(4, 4 * WIDTH), nn.ReLU(),
            nn.Conv2d(4 * WIDTH, WIDTH, 1, bias=False)) if pool else None

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return nn.functional.relu(x + self.conv(x))


class _Squash(nn.Module):
    """Bound latents softly to [-3, 3], which the decoder was trained on."""

    def forward(self, z: Tensor) -> Tensor:
        return 3 * torch.tanh(z / 3)


def _blocks(level: int, pooled: bool) -> List[nn.Module]:
    last = level == len(BLOCKS) - 1
    return [_Block(pooled and last) for _ in range(BLOCKS[level])]


def _encoder(latent_channels: int, pooled: bool) -> nn.Sequential:
    layers = [convolution(3, WIDTH), *_blocks(0, pooled)]
    for level in range(1, len(BLOCKS)):
        layers += [
            convolution(WIDTH, WIDTH, stride=2, bias=False),
            *_blocks(level, pooled)
        ]
    return nn.Sequential(*layers, convolution(WIDTH, latent_channels))


def _decoder(latent_channels: int, pooled: bool) -> nn.Sequential:
    layers = [_Squash(), convolution(latent_channels, WIDTH), nn.ReLU()]
    for level in range(len(BLOCKS) - 1, 0, -1):
        layers += [
            *_blocks(level, pooled),
            nn.Upsample(scale_factor=2),
            convolution(WIDTH, WIDTH, bias=False)
        ]
    return nn.Sequential(*layers, *_blocks(0, pooled), convolution(WIDTH, 3))


@MODELS.register_module()
@checked
class TinyAutoencoder(FrozenAutoencoder):
    r"""A tiny autoencoder of the TAESD family, frozen.

    madebyollin's distillations (https://github.com/madebyollin/taesd, MIT) of
    the autoencoders of Stable Diffusion (TAESD, TAESDXL: 4 channels, TAESD3:
    16) and FLUX (TAEF1: 16, TAEF2: 32 and ``pooled``): 1.2 to 1.4 M
    parameters in each direction, 8 pixels per latent cell, without a
    distribution, so that the deviation is 0. The author's latents z become

    .. math::
        (z - \text{mean}) / \text{std},

    of about unit variance where ``mean`` and ``std`` are those of the data
    (``tools/latent_statistics.py``).

    Args:
        latent_channels (int): Number of channels C of the latents.
        pooled (bool): Whether the blocks beside the latents pool, as those of
            TAEF2 do. Defaults to False.
        weights (str, optional): The author's two files without their ends,
            ``'pretrained/taef2'`` for ``taef2_encoder.pth`` and
            ``taef2_decoder.pth``, or ``.safetensors``; or a folder of
            diffusers' ``AutoencoderTiny``, which knows no pooled blocks.
            Defaults to None, random weights.
        mean (float | Sequence[float]): Mean of the author's latents, of all
            or of each channel. Defaults to 0.
        std (float | Sequence[float]): Their standard deviation. Defaults to
            1.

    Raises:
        ValueError: If ``mean`` or ``std`` has another number of channels, or
            a deviation is not positive.
    """

    def __init__(self,
                 latent_channels: int,
                 pooled: bool = False,
                 weights: Optional[str] = None,
                 mean: Union[float, Sequence[float]] = 0.,
                 std: Union[float, Sequence[float]] = 1.) -> None:
        super().__init__(
            factor=2**(len(BLOCKS) - 1), latent_channels=latent_channels)
        self.pooled = pooled
        self.weights = weights
        self.encoder = _encoder(latent_channels, pooled)
        self.decoder = _decoder(latent_channels, pooled)
        self.mean = self._of_channels('mean', mean)
        self.std = self._of_channels('std', std)
        if min(self.std) <= 0:
            raise ValueError(f'std must be positive, but got {std}')
        self.requires_grad_(False).train(False)

    def _of_channels(self, name: str,
                     value: Union[float, Sequence[float]]) -> List[float]:
        values = [float(v) for v in (
            [value] * self.latent_channels
            if isinstance(value, (int, float)) else value)]
        if len(values) != self.latent_channels:
            raise ValueError(
                f'{name} must be one number or one for each of the '
                f'{self.latent_channels} channels, but got {len(values)}')
        return values

    @property
    def settings(self) -> dict:
        """dict: See :attr:`FrozenAutoencoder.settings`."""
        return dict(
            super().settings, pooled=self.pooled, mean=self.mean, std=self.std)

    def init_weights(self) -> None:
        """Load the pretrained weights that the config names.

        Raises:
            FileNotFoundError: If a file is not there.
            ValueError: If it cannot be read, or is of another member of the
                family, which is named.
        """
        if self.weights is None:
            return
        folder = Path(self.weights)
        if folder.is_dir():
            path = folder / DIFFUSERS_FILE
            if not path.is_file():
                raise FileNotFoundError(
                    f'the folder {folder} holds no {DIFFUSERS_FILE}, as that of '
                    "diffusers' AutoencoderTiny does; of the author's two files "
                    "name the beginning, such as 'pretrained/taef2' for "
                    'pretrained/taef2_encoder.pth')
            parts = dict.fromkeys(('encoder', 'decoder'), path)
            found = _from_diffusers(read_weights(path))
        else:
            parts = {name: _file_of(folder, name) for name in ('encoder', 'decoder')}
            found = {name: read_weights(path) for name, path in parts.items()}
        wanted = _named(self.latent_channels, self.pooled)
        for name, path in parts.items():
            member = _member(found[name])
            if member != wanted:
                raise ValueError(
                    f'{path} is the {name} of {member}, but the config has '
                    f'latent_channels={self.latent_channels} and '
                    f'pooled={self.pooled}, those of {wanted}')
            load_matching(getattr(self, name), found[name], str(path))

    def _scaled(self, values: List[float], like: Tensor) -> Tensor:
        return torch.tensor(values, device=like.device).view(1, -1, 1, 1)

    def encode(self, pixels: Tensor) -> LatentGaussian:
        """See :meth:`FrozenAutoencoder.encode`; the deviation is zero."""
        self.check_size(pixels)
        z = _one_by_one(self.encoder, (pixels + 1) / 2).float()
        mean = (z - self._scaled(self.mean, z)) / self._scaled(self.std, z)
        return LatentGaussian(mean=mean, std=torch.zeros_like(mean))

    def decode(self, z: Tensor) -> Tensor:
        """See :meth:`FrozenAutoencoder.decode`."""
        z = z * self._scaled(self.std, z) + self._scaled(self.mean, z)
        return 2 * _one_by_one(self.decoder, z).float() - 1


def _one_by_one(network: nn.Module, batch: Tensor) -> Tensor:
    # The network is as wide at full size as anywhere: memory would not do.
    dtype = next(network.parameters()).dtype
    return torch.cat([network(part) for part in batch.to(dtype).split(1)])


def _file_of(weights: Path, part: str) -> Path:
    """Find one of the author's two files."""
    paths = [Path(f'{weights}_{part}{suffix}') for suffix in SUFFIXES]
    for path in paths:
        if path.is_file():
            return path
    raise FileNotFoundError(
        f'there is no {paths[0]} and no {paths[1]}: get both files of an '
        'autoencoder, the encoder and the decoder, from '
        'https://github.com/madebyollin/taesd, or set weights to where they are')


def _from_diffusers(weights: Dict[str, Tensor]) -> Dict[str, Dict[str, Tensor]]:
    """Rename the layers of diffusers, whose decoder has no layer to squash."""
    found: Dict[str, Dict[str, Tensor]] = dict(encoder={}, decoder={})
    for key, value in weights.items():
        part, _, rest = key.partition('.layers.')
        number, _, name = rest.partition('.')
        if part not in found or not number.isdigit():
            raise ValueError(f'{DIFFUSERS_FILE} is of no AutoencoderTiny: it has '
                             f'the key {key!r}')
        found[part][f'{int(number) + (part == "decoder")}.{name}'] = value
    return found


def _named(channels: int, pooled: bool) -> str:
    return MEMBERS.get((channels, pooled), 'no known member of the family')


def _member(part: Dict[str, Tensor]) -> str:
    """Name the members of the family that an encoder or a decoder may be of."""
    numbers = [int(key.split('.')[0]) for key in part if key[0].isdigit()]
    # A decoder has its first convolution behind a layer without weights.
    key, axis, ndim = ((f'{max(numbers)}.bias', 0, 1) if '0.weight' in part else
                       ('1.weight', 1, 4))
    latent = part.get(key)
    known = latent is not None and latent.ndim == ndim
    return _named(
        latent.shape[axis] if known else 0, any('.pool.' in key for key in part))
