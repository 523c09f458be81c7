"""Training from latents that were encoded once, in place of images."""

import copy
import hashlib
import json
import os
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Union

import torch
from mmcv.transforms import RandomFlip
from mmengine.dataset import Compose
from mmengine.structures import PixelData
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS
from mmseg.structures import SegDataSample
from safetensors import SafetensorError, safe_open
from torch.utils.data import Dataset

from .unreadable import naming_damaged_files

# By name: a loader may be one of mmcv or of mmseg.
FIXED = ['LoadImageFromFile', 'LoadAnnotations', 'Resize']
END = 'PackSegInputs'


class FixedPairs:
    """The training pairs of a dataset, fixed apart from a flip.

    Args:
        dataset (dict): Config of a dataset of mmsegmentation with its
            training pipeline.

    Attributes:
        dataset (BaseSegDataset): The dataset.
        flip_prob (float, optional): Probability of a flip, None without a
            ``RandomFlip``.
        flips (List[bool]): The flips that there are.

    Raises:
        ValueError: If anything else of a pair is drawn anew every time.
    """

    def __init__(self, dataset: dict) -> None:
        self.dataset = DATASETS.build(dataset)
        if not isinstance(self.dataset, BaseSegDataset):
            raise ValueError(
                'latents can be cached of a dataset of mmsegmentation, a '
                f'BaseSegDataset, but got {type(self.dataset).__name__}')
        transforms = list(self.dataset.pipeline.transforms)
        names = [type(transform).__name__ for transform in transforms]
        self.flip_prob: Optional[float] = None
        for name, transform in zip(names, transforms, strict=True):
            if isinstance(transform, RandomFlip):
                if self.flip_prob is not None or not isinstance(
                        transform.prob, (int, float)) or not isinstance(
                            transform.direction, str):
                    raise ValueError(
                        'latents can be cached with one RandomFlip of one '
                        f'prob and direction, but got {transform}')
                self.flip_prob = transform.prob
            elif name not in [*FIXED, END]:
                raise ValueError(
                    f'{name} stands in the train_pipeline, but latents can '
                    'be cached only where all but a flip is fixed, by '
                    f'{", ".join(FIXED)}, RandomFlip, {END}')
        if names[-1:] != [END]:
            raise ValueError(f'the train_pipeline must end with {END}, but got '
                             f'{", ".join(names[-1:]) or "nothing"}')
        self.flips = [False] if self.flip_prob is None else [False, True]
        self._load = [
            Compose([_with_flip(part, flip) for part in transforms])
            for flip in self.flips
        ]
        self._pipeline = [
            {k: v for k, v in cfg.items()
             if k != 'prob' or not isinstance(transform, RandomFlip)}
            for cfg, transform in zip(
                dataset['pipeline'][:-1], transforms[:-1], strict=True)
        ]

    def __len__(self) -> int:
        return len(self.dataset)

    def items(self, index: int) -> List[dict]:
        """Make what the pipeline can give for one image.

        Args:
            index (int): Which image.

        Returns:
            List[dict]: ``inputs`` and ``data_samples``, as the pipeline packs
            them, for every flip.

        Raises:
            UnreadableImageError: If one of its files is damaged.
        """
        with naming_damaged_files():
            return [
                load(self.dataset.get_data_info(index)) for load in self._load
            ]

    def key(self) -> dict:
        """Tell what the pairs depend on, as json has it.

        Returns:
            dict: ``pipeline``, without the probability of the flip; and
            ``dataset``: its type, classes, number of images and ``files``, the
            SHA-256 of the sizes of all images and label maps and their names
            relative to ``data_root``, in order.
        """
        digest = hashlib.sha256()
        root = self.dataset.data_root or '.'
        for index in range(len(self)):
            info = self.dataset.get_data_info(index)
            for path in (info['img_path'], info['seg_map_path']):
                name = Path(os.path.relpath(path, root)).as_posix()
                digest.update(repr((name, os.path.getsize(path))).encode())
        meta = self.dataset.metainfo
        return as_json(
            dict(
                pipeline=self._pipeline,
                dataset=dict(
                    type=type(self.dataset).__name__,
                    classes=meta.get('classes'),
                    label_map=meta.get('label_map'),
                    reduce_zero_label=meta.get('reduce_zero_label'),
                    num_images=len(self),
                    files=digest.hexdigest())))


def _with_flip(transform: Any, flip: bool) -> Any:
    if not isinstance(transform, RandomFlip):
        return transform
    transform = copy.copy(transform)
    transform.prob = float(flip)
    return transform


def as_json(value: Any) -> Any:
    """Convert to what json makes of it: lists, not tuples."""
    return json.loads(json.dumps(value))


class LatentCache:
    """A folder of cached latents: ``key.json`` and shards of some images each.

    A shard, a safetensors file, holds for each of its images and flips
    ``posterior``, mean and standard deviation of the image latent, float32,
    shape (images, flips, 2, C, h, w); ``mask_latents``, those of K perturbed
    pseudo masks, float32, shape (images, flips, K, C, h, w); and
    ``label_maps``, uint8, shape (images, flips, H, W); and the digest of the
    key it was written for.

    Args:
        folder (str | Path): The folder.
        key (dict): What the latents depend on, see
            :func:`mmseg_semflow.apis.latent_cache.cache_latents`.
    """

    def __init__(self, folder: Union[str, Path], key: dict) -> None:
        self.folder = Path(folder)
        self.key = key
        self.digest = hashlib.sha256(
            json.dumps(key, sort_keys=True).encode()).hexdigest()
        self.num_images = key['dataset']['num_images']
        self.shards = [
            self.folder / f'{number:05d}.safetensors'
            for number in range(-(-self.num_images // key['shard_size']))
        ]

    @classmethod
    def read(cls, folder: Union[str, Path]) -> 'LatentCache':
        """Read the key of a folder.

        Raises:
            FileNotFoundError: If there is none.
        """
        path = Path(folder) / 'key.json'
        if not path.is_file():
            raise FileNotFoundError(
                f'there are no cached latents at {folder}, since there is no '
                f'{path}: write them by tools/cache_latents.py CONFIG')
        return cls(folder, json.loads(path.read_text()))

    def check_key(self, key: dict) -> None:
        """Raise a ValueError if some parts of the key are others."""
        different = _difference({k: self.key.get(k) for k in key}, key)
        if different:
            name, was, now = different
            raise ValueError(
                f'{self.folder} was cached for something else: {name} was '
                f'{was} and is {now} now. Cache the latents again in another '
                'folder, or delete this one')

    def images_of(self, number: int) -> range:
        """Tell which images a shard holds."""
        size = self.key['shard_size']
        return range(number * size, min((number + 1) * size, self.num_images))

    def missing(self) -> List[int]:
        """List the numbers of the shards that are not there.

        Raises:
            ValueError: If a file cannot be read or is of another cache.
        """
        missing = []
        for number, path in enumerate(self.shards):
            if not path.is_file():
                missing.append(number)
                continue
            try:
                with safe_open(path, 'pt') as shard:
                    found = (shard.metadata() or {}).get('key')
            except SafetensorError as error:
                raise ValueError(f'{path} cannot be read ({error}): delete '
                                 'it and cache it again') from error
            if found != self.digest:
                raise ValueError(
                    f'{path} was not written for {self.folder}/key.json: '
                    'delete the folder and cache the latents again')
        return missing

    def load(self, index: int, flip: int, draw: int) -> Tuple[torch.Tensor, ...]:
        """Read what one image has, and nothing else.

        Args:
            index (int): Which image.
            flip (int): Which of the flips.
            draw (int): Which of the perturbations.

        Returns:
            Tuple[Tensor, ...]: Posterior (2, C, h, w), mask latent (C, h, w)
            and label map (H, W).
        """
        number, row = divmod(index, self.key['shard_size'])
        with safe_open(self.shards[number], 'pt') as shard:
            return (shard.get_slice('posterior')[row, flip],
                    shard.get_slice('mask_latents')[row, flip, draw],
                    shard.get_slice('label_maps')[row, flip])


def _difference(was: Any, now: Any, name: str = '') -> Optional[tuple]:
    """Find the first part in which two keys differ."""
    if isinstance(was, dict) and isinstance(now, dict):
        parts = [(f'{name}.{k}' if name else k, was.get(k), now.get(k))
                 for k in [*now, *(was.keys() - now.keys())]]
    elif isinstance(was, list) and isinstance(now, list) and \
            len(was) == len(now):
        parts = [(f'{name}[{i}]', a, b)
                 for i, (a, b) in enumerate(zip(was, now, strict=True))]
    else:
        return None if was == now else (name, was, now)
    found = (_difference(a, b, part) for part, a, b in parts)
    return next(filter(None, found), None)


def pack_latents(posterior: torch.Tensor, mask_latent: torch.Tensor,
                 label_map: torch.Tensor, **metainfo: Any) -> Dict[str, Any]:
    """Pack the latents of a pair as a dataset returns them.

    Args:
        posterior (Tensor): Mean and standard deviation of the image latent,
            shape (2, C, h, w).
        mask_latent (Tensor): Mask latent, shape (C, h, w).
        label_map (Tensor): uint8 labels, shape (H, W).
        **metainfo (Any): ``codec`` and ``autoencoder``, which training
            compares with the model's, and what else is known.

    Returns:
        Dict[str, Any]: ``inputs``, the posterior, and ``data_samples`` with
        ``gt_mask_latent`` and ``gt_sem_seg`` (1, H, W).
    """
    sample = SegDataSample(metainfo=metainfo)
    sample.set_data(
        dict(
            gt_sem_seg=PixelData(data=label_map[None]),
            gt_mask_latent=PixelData(data=mask_latent)))
    return dict(inputs=posterior, data_samples=sample)


@DATASETS.register_module()
class CachedLatentsDataset(Dataset):
    """A training set whose latents were written by ``tools/cache_latents.py``.

    Draws a flip, with the probability of the pipeline, and one of the cached
    perturbations; the model draws from the posterior of the image. Images
    are not read, but their names and sizes must be those of the cache.

    Args:
        cache (str): Folder of the cache.
        dataset (dict): Config of the training set, with its pipeline.

    Raises:
        FileNotFoundError: If the cache or an image is not there.
        ValueError: If the cache is not complete, or is of another pipeline
            or dataset. Training compares its codec with the model's.
    """

    def __init__(self, cache: str, dataset: dict) -> None:
        pairs = FixedPairs(dataset)
        self.cache = LatentCache.read(cache)
        self.cache.check_key(pairs.key())
        missing = self.cache.missing()
        if missing:
            raise ValueError(
                f'{cache} is not complete: {len(missing)} of '
                f'{len(self.cache.shards)} files are missing, for example '
                f'{self.cache.shards[missing[0]].name}: call '
                'tools/cache_latents.py again, it continues')
        self.metainfo = pairs.dataset.metainfo
        # As PseudoMaskCodec.spec has it: json makes lists of tuples.
        self.codec = {
            k: tuple(v) if isinstance(v, list) else v
            for k, v in self.cache.key['codec'].items()
        }
        self.dataset = pairs.dataset
        self.flip_prob = pairs.flip_prob or 0.

    def full_init(self) -> None:
        """Do nothing, for mmengine: all is read at once."""

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Dict[str, Any]:
        flip = bool(torch.rand(()) < self.flip_prob)
        draw = int(torch.randint(self.cache.key['num_draws'], ()))
        return self.load(index, flip, draw)

    def load(self, index: int, flip: bool, draw: int) -> Dict[str, Any]:
        """Load one of the cached pairs.

        Args:
            index (int): Which image.
            flip (bool): Whether it is flipped.
            draw (int): Which of the perturbations.

        Returns:
            Dict[str, Any]: See :func:`pack_latents`.
        """
        posterior, mask_latent, label_map = self.cache.load(
            index, int(flip), draw)
        return pack_latents(
            posterior,
            mask_latent,
            label_map,
            img_path=self.dataset.get_data_info(index)['img_path'],
            flip=flip,
            codec=self.codec,
            autoencoder=self.cache.key['autoencoder'])
