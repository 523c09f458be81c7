"""Encoding of a training set, once, for training without the encoder."""

import json
import shutil
from pathlib import Path
from typing import Dict, List, Optional, Union

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.registry import MODELS, init_default_scope
from mmengine.utils import ProgressBar
from safetensors.torch import save
from torch import Tensor, nn

from mmseg_semflow.datasets.cached_latents import (
    LatentCache,
    TrainingViews,
    as_json,
)
from mmseg_semflow.files import write_bytes
from mmseg_semflow.flow import PseudoMaskCodec, seeded_generator
from mmseg_semflow.models.checkpoint_guard import weights_of
from mmseg_semflow.safe_loading import load_from_anywhere, weights_in

from .loading import read_config


class LatentWriter:
    """Encode the training set of a config.

    Args:
        cfg (Config): Config of the training.
        num_draws (int, optional): Number K of perturbations per view. Defaults
            to None: 4, or 1 where the codec's amplitude is 0.
        device (str, optional): Defaults to None, a GPU if there is one.
        shard_size (int): Number of images per file. Defaults to 32.

    Attributes:
        key (dict): What the latents depend on, see :func:`cache_latents`.

    Raises:
        ValueError: If ``num_draws`` is below 1 or the config is none of
            SemFlow, or its pipeline cannot be cached, see
            :class:`TrainingViews`.
    """

    def __init__(self,
                 cfg: Config,
                 num_draws: Optional[int] = None,
                 device: Optional[str] = None,
                 shard_size: int = 32) -> None:
        cfg = read_config(cfg)
        init_default_scope(cfg.get('default_scope', 'mmseg'))
        dataset = cfg.train_dataloader.dataset
        self.views = TrainingViews(
            dataset.get('dataset', dataset), dataset.get('num_views'))
        self.codec = PseudoMaskCodec(**cfg.model.semflow.codec)
        if num_draws is None:
            num_draws = 4 if self.codec.amplitude else 1
        if num_draws < 1:
            raise ValueError(f'num_draws must be >= 1, but got {num_draws}')
        device = device or get_device()
        self.preprocessor = MODELS.build(
            cfg.model.get('data_preprocessor')
            or dict(type='SemFlowDataPreProcessor')).to(device)
        self.preprocessor.serve(self.codec)
        self.autoencoder = build_autoencoder(cfg).to(device)
        self.num_draws = num_draws
        self.size: Optional[torch.Size] = None
        self._pictures(0)
        self.key = dict(
            format=2,
            autoencoder=self.autoencoder.identity(),
            size=list(self.size),
            codec=as_json(self.codec.spec),
            **self.views.key(),
            num_draws=num_draws,
            shard_size=shard_size,
            dtype='float32')

    @property
    def bytes_per_image(self) -> int:
        """int: Size of what is written for one image."""
        height, width = self.size
        cells = height * width // self.autoencoder.factor**2
        latent = 4 * self.autoencoder.latent_channels * cells
        return len(self.views.probabilities) * (
            (2 + self.num_draws) * latent + height * width)

    def _pictures(self, index: int) -> dict:
        items = self.views.items(index)
        for item in items:
            shape = item['inputs'].shape[-2:]
            self.size = self.size or shape
            if shape != self.size:
                raise ValueError(
                    'latents can be cached only of images of one size, but '
                    f'{item["data_samples"].img_path} has {tuple(shape)} and '
                    f'the first one {tuple(self.size)} (height, width): put a '
                    'Resize with keep_ratio=False or a RandomCrop in the '
                    'train_pipeline')
        self.preprocessor.check_unpadded(self.size)
        return self.preprocessor(pseudo_collate(items), True)

    @torch.no_grad()
    def encode(self, index: int) -> Dict[str, Tensor]:
        """Encode one image and its masks.

        Args:
            index (int): Which image of the training set.

        Returns:
            Dict[str, Tensor]: See :class:`LatentCache`, without the first
            dimension.

        Raises:
            ValueError: If the image has another size than the first one, or
                one that does not fit the autoencoder.
        """
        data = self._pictures(index)
        images, samples = data['inputs'], data['data_samples']
        label_maps = torch.cat([s.gt_sem_seg.data for s in samples])
        levels = self.codec.encode(label_maps.cpu())
        masks = torch.stack([
            self.codec.perturb(
                level,
                seeded_generator(index, number, labels.to(torch.uint8)))
            for level, labels in zip(levels, label_maps, strict=True)
            for number in range(self.num_draws)
        ])
        masks = self.codec.normalize(masks).to(images.device)
        # Fixed algorithms, so that a shard is the same whenever it is written.
        with torch.backends.cudnn.flags(enabled=True, deterministic=True):
            latents = self.autoencoder.encode(torch.cat([images, masks]))
        count = len(images)
        posterior = torch.stack([latents.mean, latents.std], 1)[:count]
        mask_latents = latents.mean[count:].unflatten(0, (count, -1))
        return dict(
            posterior=posterior.cpu(),
            mask_latents=mask_latents.cpu(),
            label_maps=label_maps.to(torch.uint8).cpu())


def build_autoencoder(cfg: Config) -> nn.Module:
    """Build the autoencoder with the weights that training starts from."""
    autoencoder = MODELS.build(cfg.model.semflow.autoencoder)
    autoencoder.init_weights()
    if cfg.get('load_from'):
        checkpoint = load_from_anywhere(cfg.load_from)
        autoencoder.load_state_dict(
            weights_of(weights_in(checkpoint, cfg.load_from), 'autoencoder'))
    return autoencoder


def cache_latents(cfg: Config,
                  out: Union[str, Path, None] = None,
                  num_draws: Optional[int] = None,
                  device: Optional[str] = None,
                  rank: int = 0,
                  world_size: int = 1,
                  shard_size: int = 32) -> LatentCache:
    """Write the latents of a training set for :class:`CachedLatentsDataset`.

    What is there already is kept, so that an interrupted call continues
    where it stopped, and the files are then the same. The key says what they
    depend on: the autoencoder (type, settings, weights), the codec with its
    amplitude, the size, the pipeline, the dataset (names and sizes of its
    files), the number of perturbations.

    Args:
        cfg (Config): Config of the training, with or without the cache.
        out (str | Path, optional): Folder to write to. Defaults to None, the
            ``cache`` of the config's :class:`CachedLatentsDataset`.
        num_draws (int, optional): See :class:`LatentWriter`. Defaults to
            None.
        device (str, optional): Defaults to None, a GPU if there is one.
        rank (int): Which of ``world_size`` processes this is. Defaults to 0.
        world_size (int): Number of processes that share the files. Defaults
            to 1.
        shard_size (int): Number of images per file. Defaults to 32.

    Returns:
        LatentCache: The cache; with several processes not yet complete.

    Raises:
        ValueError: If the folder is of another key, or something of the
            config cannot be cached; see :class:`TrainingViews`.
        FileNotFoundError: If weights or files of the dataset are not there.
        OSError: If the disk is too small.
    """
    out = out or cfg.train_dataloader.dataset.get('cache')
    if out is None:
        raise ValueError(
            'the config has no CachedLatentsDataset: say where to write to '
            '(--out)')
    writer = LatentWriter(cfg, num_draws, device, shard_size)
    cache = LatentCache(out, writer.key)
    cache.folder.mkdir(parents=True, exist_ok=True)
    path = cache.folder / 'key.json'
    if path.exists():
        LatentCache.read(out).check_key(writer.key)
    missing = cache.missing()
    if rank == 0:
        _announce(cache, writer, missing)
        write_bytes(path, json.dumps(writer.key, indent=2).encode())
    # By number: which are missing changes while other processes write.
    missing = [n for n in missing if n % world_size == rank]
    total = sum(len(cache.images_of(number)) for number in missing)
    progress = ProgressBar(total) if rank == 0 and total else None
    for number in missing:
        images = []
        for index in cache.images_of(number):
            images.append(writer.encode(index))
            if progress:
                progress.update()
        tensors = {
            name: torch.stack([image[name] for image in images])
            for name in images[0]
        }
        write_bytes(cache.shards[number], save(tensors, dict(key=cache.digest)))
    return cache


def _announce(cache: LatentCache, writer: LatentWriter,
              missing: List[int]) -> None:
    """Print how large the cache gets, and raise if the disk is too small."""
    left = sum(len(cache.images_of(number)) for number in missing)
    need = left * writer.bytes_per_image
    free = shutil.disk_usage(cache.folder).free
    total = cache.num_images * writer.bytes_per_image
    print(f'{cache.num_images} images of {writer.size[0]}x{writer.size[1]} '
          f'(height x width), {len(writer.views.probabilities)} views, '
          f'{writer.num_draws} perturbations: {total / 1e9:.3g} GB in '
          f'{cache.folder}; {need / 1e9:.3g} GB are to be written, '
          f'{free / 1e9:.3g} GB are free', flush=True)
    if need > free:
        raise OSError(
            f'the disk of {cache.folder} has {free / 1e9:.3g} GB free and the '
            f'latents need {need / 1e9:.3g} GB: write them elsewhere (--out) or '
            'lower --num-draws')
