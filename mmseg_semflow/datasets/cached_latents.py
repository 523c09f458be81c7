"""Training from latents that were encoded once, in place of images."""

import copy
import hashlib
import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple, Union

import torch
from mmcv.transforms import RandomFlip
from mmengine import fileio
from mmengine.dataset import Compose
from mmengine.structures import PixelData
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS
from mmseg.structures import SegDataSample
from safetensors import SafetensorError, safe_open
from torch.utils.data import Dataset

from mmseg_semflow.files import read_json

from .seeded import VIEW, seeded_generators
from .unreadable import naming_damaged_files

# By name: a loader may be one of mmcv or of mmseg.
FIXED = ['LoadImageFromFile', 'LoadAnnotations', 'Resize']
END = 'PackSegInputs'
MAX_SHARDS = 100_000


class TrainingViews:
    """The views of its images that a training set shows.

    Without ``num_views`` they are the two flips of a pipeline that is fixed
    apart from one. With it they are so many draws of any pipeline, the same
    for the same image and number.

    Args:
        dataset (dict): Config of a dataset of mmsegmentation with its
            training pipeline.
        num_views (int, optional): Number of draws. Defaults to None, the
            flips.

    Attributes:
        dataset (BaseSegDataset): The dataset.
        probabilities (List[float]): How often training shows each view.

    Raises:
        ValueError: If, without ``num_views``, anything but a flip is drawn
            anew every time, or ``num_views`` is below 1.
    """

    def __init__(self, dataset: dict, num_views: Optional[int] = None) -> None:
        if num_views is not None and num_views < 1:
            raise ValueError(f'num_views must be >= 1, but got {num_views}')
        self.dataset = DATASETS.build(dataset)
        if not isinstance(self.dataset, BaseSegDataset):
            raise ValueError(
                'latents can be cached of a dataset of mmsegmentation, a '
                f'BaseSegDataset, but got {type(self.dataset).__name__}')
        self.num_views = num_views
        transforms = list(self.dataset.pipeline.transforms)
        names = [type(transform).__name__ for transform in transforms]
        if names[-1:] != [END]:
            raise ValueError(f'the train_pipeline must end with {END}, but got '
                             f'{", ".join(names[-1:]) or "nothing"}')
        self._pipeline = list(dataset['pipeline'][:-1])
        if num_views is not None:
            self.probabilities = [1 / num_views] * num_views
            return
        flips = [t for t in transforms if isinstance(t, RandomFlip)]
        for transform, name in zip(transforms, names, strict=True):
            if name not in [*FIXED, END] and transform not in flips:
                raise ValueError(
                    f'{name} stands in the train_pipeline, but the flips of an '
                    'image can be cached only where all else is fixed, by '
                    f'{", ".join(FIXED)}, RandomFlip, {END}. For a number of '
                    'draws of the pipeline instead set num_views of '
                    'CachedLatentsDataset')
        if len(flips) > 1 or any(
                not isinstance(flip.prob, (int, float))
                or not isinstance(flip.direction, str) for flip in flips):
            raise ValueError('flips can be cached of one RandomFlip of one prob '
                             f'and direction, but got {flips}')
        # How often a flip is shown does not matter to what is cached.
        self._pipeline = [
            {k: v for k, v in cfg.items() if k != 'prob' or transform not in flips}
            for cfg, transform in zip(
                self._pipeline, transforms[:-1], strict=True)
        ]
        self.probabilities = [1 - flips[0].prob, flips[0].prob] if flips else [1.]
        self._load = [
            Compose([_with_flip(part, flip) for part in transforms])
            for flip in (False, True)[:len(self.probabilities)]
        ]

    def __len__(self) -> int:
        return len(self.dataset)

    def items(self, index: int) -> List[dict]:
        """Make the views of one image.

        Args:
            index (int): Which image.

        Returns:
            List[dict]: ``inputs`` and ``data_samples``, as the pipeline packs
            them, of every view.

        Raises:
            UnreadableImageError: If one of its files is damaged.
        """
        with naming_damaged_files():
            if self.num_views is None:
                return [
                    load(self.dataset.get_data_info(index)) for load in self._load
                ]
            items = []
            for view in range(self.num_views):
                with seeded_generators(VIEW, index, view):
                    items.append(self.dataset[index])
            return items

    def key(self) -> dict:
        """Tell what the views depend on, as json has it.

        Returns:
            dict: ``pipeline``, without the probability of the flip where both
            flips are cached; ``num_views`` if there is one; and ``dataset``,
            see :func:`dataset_key`.
        """
        return as_json(
            dict(
                pipeline=self._pipeline,
                **(dict(num_views=self.num_views) if self.num_views else {}),
                dataset=dataset_key(self.dataset)))


def dataset_key(dataset: BaseSegDataset) -> dict:
    """Tell what the pairs of a dataset depend on.

    Args:
        dataset (BaseSegDataset): The dataset, or several of them concatenated.

    Returns:
        dict: Its type, classes, number of images and ``files``, the SHA-256 of
        the sizes of all images and label maps and their names relative to
        ``data_root``, in order.
    """
    digest = hashlib.sha256()
    root = getattr(dataset, 'data_root', None) or '.'
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        for path in (info['img_path'], info['seg_map_path']):
            name = Path(os.path.relpath(path, root)).as_posix()
            digest.update(repr((name, _size(path))).encode())
    meta = dataset.metainfo
    return dict(
        type=type(dataset).__name__,
        classes=meta.get('classes'),
        label_map=meta.get('label_map'),
        reduce_zero_label=meta.get('reduce_zero_label'),
        num_images=len(dataset),
        files=digest.hexdigest())


def _size(path: str) -> int:
    # Of what lies in a shard, only its content.
    return len(fileio.get(path)) if '://' in path else os.path.getsize(path)


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

    A shard, a safetensors file, holds for each of its images and views
    ``posterior``, mean and standard deviation of the image latent, float32,
    shape (images, views, 2, C, h, w); ``mask_latents``, those of K perturbed
    pseudo masks, float32, shape (images, views, K, C, h, w); and
    ``label_maps``, uint8, shape (images, views, H, W); and the digest of the
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
        if not 0 <= self.num_images <= MAX_SHARDS * key['shard_size']:
            raise ValueError(
                f'{folder} must be of at most {MAX_SHARDS:,} files, but its key has '
                f'{self.num_images} images, {key["shard_size"]} a file')
        self.shards = [
            self.folder / f'{number:05d}.safetensors'
            for number in range(-(-self.num_images // key['shard_size']))
        ]

    @classmethod
    def read(cls, folder: Union[str, Path]) -> 'LatentCache':
        """Read the key of a folder.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If it is damaged.
        """
        path = Path(folder) / 'key.json'
        if not path.is_file():
            raise FileNotFoundError(
                f'there are no cached latents at {folder}, since there is no '
                f'{path}: write them by tools/cache_latents.py CONFIG')
        key = read_json(path)
        try:
            return cls(folder, key)
        except (LookupError, TypeError, ArithmeticError) as error:
            raise ValueError(
                f'{path} is no key of cached latents ({error!r}): delete the folder '
                'and cache the latents again') from error

    def check_key(self, key: dict) -> None:
        """Raise a ValueError if some parts of the key are others."""
        different = first_difference({k: self.key.get(k) for k in key}, key)
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
            with self._opened(number) as shard:
                found = (shard.metadata() or {}).get('key')
                if found != self.digest:
                    raise ValueError(
                        f'{path} was not written for {self.folder}/key.json: '
                        'delete the folder and cache the latents again')
                self._check_parts(number, shard)
        return missing

    @contextmanager
    def _opened(self, number: int) -> Iterator[Any]:
        """Open a shard; errors name it."""
        path = self.shards[number]
        try:
            with safe_open(path, 'pt') as shard:
                yield shard
        except SafetensorError as error:
            raise ValueError(f'{path} cannot be read ({error}): delete '
                             'it and cache it again') from error

    def _check_parts(self, number: int, shard: Any) -> None:
        """Raise a ValueError if a shard holds other types or shapes."""
        found = {}
        for name in shard.keys():
            part = shard.get_slice(name)
            found[name] = part.get_dtype(), tuple(part.get_shape())
        settings, size = self.key['autoencoder']['settings'], self.key['size']
        latent = (settings['latent_channels'],
                  *(side // settings['factor'] for side in size))
        # Of the flips nobody knows the number but the pipeline.
        _, shape = found.get('posterior', ('', ()))
        views = (len(self.images_of(number)), *shape[1:2])
        expected = dict(
            posterior=('F32', (*views, 2, *latent)),
            mask_latents=('F32', (*views, self.key['num_draws'], *latent)),
            label_maps=('U8', (*views, *size)))
        for name, (dtype, shape) in expected.items():
            if found.get(name) != (dtype, shape):
                raise ValueError(
                    f'{self.shards[number]} must hold {name}, {dtype} of {shape}, but '
                    f'has {found.get(name)}: delete it and cache it again')

    def load(self, index: int, view: int, draw: int) -> Tuple[torch.Tensor, ...]:
        """Read what one image has, and nothing else.

        Args:
            index (int): Which image.
            view (int): Which of the views.
            draw (int): Which of the perturbations.

        Returns:
            Tuple[Tensor, ...]: Posterior (2, C, h, w), mask latent (C, h, w)
            and label map (H, W).
        """
        number, row = divmod(index, self.key['shard_size'])
        with self._opened(number) as shard:
            return (shard.get_slice('posterior')[row, view],
                    shard.get_slice('mask_latents')[row, view, draw],
                    shard.get_slice('label_maps')[row, view])


def first_difference(was: Any, now: Any, name: str = '') -> Optional[tuple]:
    """Find the first part in which two keys differ: its name, and both values."""
    if isinstance(was, dict) and isinstance(now, dict):
        parts = [(f'{name}.{k}' if name else k, was.get(k), now.get(k))
                 for k in [*now, *(was.keys() - now.keys())]]
    elif isinstance(was, list) and isinstance(now, list) and \
            len(was) == len(now):
        parts = [(f'{name}[{i}]', a, b)
                 for i, (a, b) in enumerate(zip(was, now, strict=True))]
    else:
        return None if was == now else (name, was, now)
    found = (first_difference(a, b, part) for part, a, b in parts)
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

    Draws a view, by default a flip with the probability of the pipeline, and
    one of the cached perturbations; the model draws from the posterior of the
    image. Images are not read, but their names and sizes must be those of the
    cache.

    Args:
        cache (str): Folder of the cache.
        dataset (dict): Config of the training set, with its pipeline.
        num_views (int, optional): How many draws of the pipeline the cache
            holds of an image. Defaults to None, the flips of a pipeline that
            is fixed otherwise.
        crop_size (Tuple[int, int], optional): Height and width in pixels of
            the random crops that training gets, multiples of the autoencoder's
            factor. A crop of latents is about the latents of the crop: how
            much they differ, ``tools/latent_statistics.py`` tells. Defaults to
            None, all of the view.

    Raises:
        FileNotFoundError: If the cache or an image is not there.
        ValueError: If the cache is not complete, or is of another pipeline,
            number of views or dataset, or ``crop_size`` does not fit it.
            Training compares its codec with the model's.
    """

    def __init__(self,
                 cache: str,
                 dataset: dict,
                 num_views: Optional[int] = None,
                 crop_size: Optional[Tuple[int, int]] = None) -> None:
        views = TrainingViews(dataset, num_views)
        self.cache = LatentCache.read(cache)
        self.cache.check_key(dict(views.key(), num_views=num_views))
        missing = self.cache.missing()
        if missing:
            raise ValueError(
                f'{cache} is not complete: {len(missing)} of '
                f'{len(self.cache.shards)} files are missing, for example '
                f'{self.cache.shards[missing[0]].name}: call '
                'tools/cache_latents.py again, it continues')
        self.metainfo = views.dataset.metainfo
        # As PseudoMaskCodec.spec has it: json makes lists of tuples.
        self.codec = {
            k: tuple(v) if isinstance(v, list) else v
            for k, v in self.cache.key['codec'].items()
        }
        self.dataset = views.dataset
        self.probabilities = torch.tensor(views.probabilities)
        self.factor = self.cache.key['autoencoder']['settings']['factor']
        self.size = tuple(self.cache.key['size'])
        self.crop_size = tuple(crop_size or self.size)
        if len(self.crop_size) != 2 or any(
                not 0 < crop <= side or crop % self.factor
                for crop, side in zip(self.crop_size, self.size, strict=False)):
            raise ValueError(
                f'crop_size must be height and width, multiples of '
                f'{self.factor} up to {self.size}, the size of the views in '
                f'{cache}, but got {crop_size}')

    def full_init(self) -> None:
        """Do nothing, for mmengine: all is read at once."""

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Dict[str, Any]:
        view = int((torch.rand(()) >= self.probabilities.cumsum(0)[:-1]).sum())
        draw = int(torch.randint(self.cache.key['num_draws'], ()))
        top, left = (
            self.factor * int(torch.randint((side - crop) // self.factor + 1, ()))
            for side, crop in zip(self.size, self.crop_size, strict=True))
        return self.load(index, view, draw, top, left)

    def load(self,
             index: int,
             view: int,
             draw: int,
             top: int = 0,
             left: int = 0) -> Dict[str, Any]:
        """Load one of the cached pairs, cropped.

        Args:
            index (int): Which image.
            view (int): Which of its views.
            draw (int): Which of the perturbations.
            top (int): First row of the crop in pixels, a multiple of the
                factor. Defaults to 0.
            left (int): First column. Defaults to 0.

        Returns:
            Dict[str, Any]: See :func:`pack_latents`.
        """
        parts = self.cache.load(index, view, draw)
        cropped = []
        for part in parts:
            scale = 1 if part is parts[-1] else self.factor
            rows, columns = (
                slice(start // scale, (start + size) // scale)
                for start, size in zip((top, left), self.crop_size, strict=True))
            cropped.append(part[..., rows, columns])
        return pack_latents(
            *cropped,
            img_path=self.dataset.get_data_info(index)['img_path'],
            view=view,
            codec=self.codec,
            cache=str(self.cache.folder),
            autoencoder=self.cache.key['autoencoder'])
