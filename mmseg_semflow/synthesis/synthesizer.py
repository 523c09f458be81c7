"""Synthesis of images for label maps, reproducibly."""

import warnings
from abc import ABC, abstractmethod
from contextlib import nullcontext
from functools import partial
from itertools import combinations
from statistics import fmean
from typing import (
    Any,
    Callable,
    ContextManager,
    Dict,
    List,
    Optional,
    Sequence,
    Tuple,
    Union,
)

import torch
from torch import Tensor, nn

from mmseg_semflow.flow import (
    Condition,
    Generators,
    Network,
    StepCallback,
    check_num_steps,
    check_tiling,
    seeded_generator,
    tile_network,
)
from mmseg_semflow.models import SemFlowModel
from mmseg_semflow.models.processes import DIRECTIONS
from mmseg_semflow.pixels import resize_labels, to_uint8
from mmseg_semflow.registry import MODELS

from .batches import batches_of_one_size
from .style import Style, check_size

Sides = Tuple[int, int]
# A label map, int64 of shape (H, W), and which of its samples is wanted.
Request = Tuple[Tensor, int]
Wrap = Callable[[Network], Network]


class ImageSampler(ABC):
    """Synthesise images for label maps: what flows and GANs have in common.

    Args:
        num_samples (int): Number of images K per label map. Defaults to 1.
        seed (int): Seed of the noise. Defaults to 0.
        size (Tuple[int, int], optional): Height and width in pixels to which
            label maps (by nearest) and images are resized first. Defaults to
            None, their own size.

    Raises:
        ValueError: If an argument breaks its rule.
    """

    def __init__(self,
                 num_samples: int = 1,
                 seed: int = 0,
                 size: Optional[Sides] = None) -> None:
        if not isinstance(num_samples, int) or num_samples < 1:
            raise ValueError('num_samples must be an integer >= 1, but got '
                             f'{num_samples!r}')
        check_size(size)
        if not isinstance(seed, int) or isinstance(seed, bool):
            raise ValueError(f'seed must be an integer, but got {seed!r}')
        self.num_samples = num_samples
        self.seed = seed
        self.size = size

    @property
    @abstractmethod
    def protocol(self) -> str:
        """str: How the images are made, to stand beside every figure."""

    @abstractmethod
    def synthesize(self, requests: Sequence[Request]) -> List[Tensor]:
        """Synthesise images.

        Args:
            requests (Sequence[Tuple[Tensor, int]]): Label maps, in
                [0, num_classes) or ``ignore_index``, int64, shape (H, W), of
                any sizes; and which of the samples of each, from 0.

        Returns:
            List[Tensor]: RGB, uint8, shape (3, H, W), or of ``size``.

        Raises:
            ValueError: If there is any other label.
        """

    def __call__(self, label_map: Tensor) -> Tensor:
        """Synthesise all samples of a label map: RGB, uint8, (K, 3, H, W)."""
        return torch.stack(
            self.synthesize([(label_map, number)
                             for number in range(self.num_samples)]))

    def size_of(self, label_map: Tensor) -> Sides:
        """Tell height and width of the images for labels (H, W)."""
        return tuple(self.size or label_map.shape)

    def resize(self, label_map: Tensor) -> Tensor:
        """Resize labels (H, W) by nearest to ``size``, if it is set."""
        return resize_labels(label_map, self.size_of(label_map))

    @torch.no_grad()
    def evaluate(self,
                 image: Tensor,
                 label_map: Tensor,
                 samples: Optional[Tensor] = None) -> Dict[str, Any]:
        """Synthesise the samples of a label map beside its real image.

        Args:
            image (Tensor): The real image, RGB, uint8, shape (3, h, w).
            label_map (Tensor): Its labels, int64, of any size; they are
                brought to ``size`` or else to that of the image, (H, W).
            samples (Tensor, optional): Its samples, where they are there
                already, shape (K, 3, H, W). Defaults to None.

        Returns:
            Dict[str, Any]: All images RGB, uint8: ``gt_img`` and ``fake_img``
            (the first sample), shape (3, H, W); ``samples``, shape
            (K, 3, H, W); ``gt_label_map``, shape (H, W); and ``protocol``.
        """
        size = tuple(self.size or image.shape[-2:])
        if tuple(image.shape[-2:]) != size:
            image = nn.functional.interpolate(
                image[None].float(), size, mode='bilinear', antialias=True)
            image = image[0].round().clamp(0, 255).to(torch.uint8)
        label_map = resize_labels(label_map, size)
        if samples is None:
            samples = self(label_map)
        return dict(
            protocol=self.protocol,
            gt_img=image,
            gt_label_map=label_map,
            fake_img=samples[0],
            samples=samples)


class Synthesizer(ImageSampler):
    r"""Synthesise images by the reverse flow (SemFlow, Eq. 13, 14).

    The noise of an image depends on the seed, on its number among the samples
    and on the label map, and on nothing else. By default every image is
    transported alone, since sums over a batch round differently from those
    over one image: so the same seed gives the same bytes on one device,
    whatever is synthesised besides. With ``batch_size`` images of one size
    are transported together, which can be faster where the device has room;
    the bytes then depend, by rounding, on what shares the batch.

    Args:
        semflow (SemFlowModel): The model; it keeps its device.
        num_steps (int): Number of solver steps N. Defaults to 25.
        solver (str, optional): Name of the solver. Defaults to None, that of
            the process: ``'euler'`` for SemFlow.
        num_samples (int): See :class:`ImageSampler`. Defaults to 1.
        seed (int): Seed of the perturbation. Defaults to 0.
        size (Tuple[int, int], optional): See :class:`ImageSampler`. Defaults
            to None.
        amplitude (float, optional): Half-width of the perturbation in 8-bit
            levels. Defaults to None, that of the training; with another one
            images get darker or overexposed (Fig. 8), hence a warning.
        tile_size (Tuple[int, int], optional): Height and width in pixels of
            overlapping windows in which the network is averaged at every
            step, for masks larger than it was trained on. Defaults to None,
            no windows.
        tile_stride (Tuple[int, int], optional): Distance of the windows in
            pixels. Defaults to None, half of ``tile_size``.
        dtype (str, optional): ``'bfloat16'`` for autocast. Defaults to None.
        batch_size (int): Number of images that are transported together.
            Defaults to 1.
        segment_steps (int, optional): Number of steps, of the process' own
            solver, by which :meth:`evaluate` segments what was synthesised.
            Defaults to None, it does not.
        round_trip (bool): Whether :meth:`evaluate` also brings the real image
            to its mask and back. Defaults to False.
        noise_gain (bool): Whether :meth:`evaluate` also measures how far apart
            the samples are and what they were made of. Defaults to False.
        style (Style | dict, optional): What all that is synthesised shall look
            like, or the config of it; segmentation is left alone. It sees whole
            latents, also where there are tiles. Defaults to None.

    Raises:
        ValueError: If an argument breaks its rule, such as tiles that do not
            fit the autoencoder's factor or a stride that exceeds its tile.
    """

    def __init__(self,
                 semflow: SemFlowModel,
                 num_steps: int = 25,
                 solver: Optional[str] = None,
                 num_samples: int = 1,
                 seed: int = 0,
                 size: Optional[Sides] = None,
                 amplitude: Optional[float] = None,
                 tile_size: Optional[Sides] = None,
                 tile_stride: Optional[Sides] = None,
                 dtype: Optional[str] = None,
                 batch_size: int = 1,
                 segment_steps: Optional[int] = None,
                 round_trip: bool = False,
                 noise_gain: bool = False,
                 style: Union[Style, dict, None] = None) -> None:
        super().__init__(num_samples, seed, size)
        process, codec = semflow.process, semflow.codec
        if solver is None:
            solver = process.default_solver
        process.check_sampling(num_steps, solver)
        if segment_steps is not None:
            check_num_steps(segment_steps)
        if dtype not in (None, 'bfloat16'):
            raise ValueError(
                f"dtype must be None or 'bfloat16', but got {dtype!r}")
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(
                f'batch_size must be an integer >= 1, but got {batch_size!r}')
        if batch_size > 1 and not process.has_fixed_steps(solver):
            raise ValueError(
                f'batch_size must be 1 for {solver!r}, which chooses its steps '
                f'for all images of a batch at once, but got {batch_size}')
        if amplitude is None:
            amplitude = codec.amplitude
        limit = codec.spacing / 2
        if not 0 <= amplitude < limit:
            raise ValueError('amplitude must be in [0, spacing / 2) = '
                             f'[0, {limit}), but got {amplitude}')
        if amplitude != codec.amplitude:
            warnings.warn(
                f'amplitude={amplitude} is not that of the training, '
                f'{codec.amplitude}: a smaller one gives dim images, a larger '
                'one overexposed ones (SemFlow, Fig. 8)',
                stacklevel=2)
        if noise_gain and num_samples < 2:
            raise ValueError('noise_gain compares samples of a mask: num_samples must '
                             f'be >= 2, but got {num_samples}')
        if isinstance(style, dict):
            style = MODELS.build(style)
        if style is not None:
            style.check_model(semflow)
        self.semflow = semflow
        self.num_steps = num_steps
        self.solver = solver
        self.amplitude = amplitude
        self.tiles = dict(tile_size=tile_size, tile_stride=tile_stride)
        self._tiling = _tiling(semflow.autoencoder.factor, **self.tiles)
        self.dtype = dtype
        self.batch_size = batch_size
        self.segment_steps = segment_steps
        self.round_trip = round_trip
        self.noise_gain = noise_gain
        self.style = style

    @property
    def settings(self) -> dict:
        """dict: What the images depend on besides weights and masks."""
        batch = dict(batch_size=self.batch_size) if self.batch_size > 1 else {}
        style = {} if self.style is None else dict(style=self.style.settings)
        return dict(
            num_steps=self.num_steps,
            solver=self.solver,
            seed=self.seed,
            amplitude=self.amplitude,
            size=self.size and list(self.size),
            dtype=self.dtype,
            **{key: tile and list(tile) for key, tile in self.tiles.items()},
            **batch,
            **style)

    @property
    def protocol(self) -> str:
        """str: See :attr:`ImageSampler.protocol`."""
        segmented = '' if self.segment_steps is None else (
            f', segmented by {self.semflow.process.default_solver} '
            f'{self.segment_steps}')
        styled = '' if self.style is None else (
            f', style {" ".join(map(str, self.style.settings.values()))}')
        return (f'{self.num_samples} samples per mask, {self.solver} '
                f'{self.num_steps}, amplitude {self.amplitude:g}, seed '
                f'{self.seed}{styled}{segmented}')

    def perturbed(self, label_map: Tensor, number: int) -> Tensor:
        """Make the pseudo mask from which an image is synthesised.

        Args:
            label_map (Tensor): Labels, int64, shape (H, W).
            number (int): Which of the samples, from 0.

        Returns:
            Tensor: Perturbed pseudo mask, about [-1, 1], shape (1, 3, H, W).
        """
        codec, device = self.semflow.codec, self.semflow.device
        levels = codec.perturb(
            codec.encode(label_map[None].to(device)).cpu(),
            seeded_generator(self.seed, number, label_map.to(torch.uint8)),
            self.amplitude)
        return codec.normalize(levels.to(device))

    @torch.no_grad()
    def synthesize(self, requests: Sequence[Request]) -> List[Tensor]:
        """See :meth:`ImageSampler.synthesize`."""
        images: Dict[int, Tensor] = {}
        for places in batches_of_one_size(
                range(len(requests)),
                lambda place: self.size_of(requests[place][0]),
                self.batch_size):
            made = self._synthesize_batch([
                (self.resize(label_map), number)
                for label_map, number in (requests[place] for place in places)
            ])
            images.update(zip(places, to_uint8(made), strict=True))
        return [images[place] for place in range(len(requests))]

    @torch.no_grad()
    def segment(self, image: Tensor, num_steps: int) -> Tensor:
        """Label an image by the process' own solver, in tiles where there are.

        Args:
            image (Tensor): RGB, uint8, shape (3, H, W).
            num_steps (int): Number of steps.

        Returns:
            Tensor: int64 labels, shape (H, W).
        """
        return self.semflow.codec.decode(self._to_mask(image, num_steps))[0]

    @torch.no_grad()
    def trajectory(self, pixels: Tensor, start: float, end: float) -> Tensor:
        """Decode the states at all times of the solver.

        Args:
            pixels (Tensor): Image or pseudo mask in [-1, 1], shape
                (1, 3, H, W).
            start (float): Its flow time, 0 or 1.
            end (float): Flow time of the other end.

        Returns:
            Tensor: RGB, uint8, shape (N + 1, 3, H, W).
        """
        direction, wrap = DIRECTIONS[int(start > end)], self._tiling
        if direction == 'mask_to_image':
            wrap = self._styled([(self.semflow.codec.recover(pixels)[0], 0)])
        with self._autocast():
            states = self.semflow.transport(
                pixels,
                self.semflow.process.times(self.num_steps, start, end),
                self.solver,
                return_trajectory=True,
                generators=self._generators(direction, pixels, [0]),
                condition=self._condition(direction, [0]),
                wrap=wrap)
        return to_uint8(states[:, 0])

    @torch.no_grad()
    def evaluate(self,
                 image: Tensor,
                 label_map: Tensor,
                 samples: Optional[Tensor] = None) -> Dict[str, Any]:
        """Synthesise and compare; see :meth:`ImageSampler.evaluate`.

        Args:
            image (Tensor): The real image, RGB, uint8, shape (3, h, w).
            label_map (Tensor): Its labels, int64, of any size.
            samples (Tensor, optional): Its samples, if they are there.
                Defaults to None.

        Returns:
            Dict[str, Any]: Besides, with ``segment_steps``
            ``sample_label_maps``, shape (K, H, W); with ``round_trip``
            ``round_trip_img`` (through the pseudo mask as the flow leaves it)
            and ``label_round_trip_img`` (through the labels), (3, H, W); with
            ``noise_gain`` ``sample_spread`` and ``start_spread``, the mean
            absolute differences between latents of two samples and between
            the states at which they started.
        """
        results = super().evaluate(image, label_map, samples)
        if self.segment_steps is not None:
            results['sample_label_maps'] = torch.stack([
                self.segment(sample, self.segment_steps)
                for sample in results['samples']
            ])
        if self.round_trip:
            pseudo_mask = self._to_mask(
                results['gt_img'], self.num_steps, self.solver)
            labels = self.semflow.codec.decode(pseudo_mask)[0]
            results['round_trip_img'] = to_uint8(
                self._to_images(pseudo_mask, [(labels, 0)]))[0]
            results['label_round_trip_img'] = self.synthesize([(labels, 0)])[0]
        if self.noise_gain:
            results.update(
                self._spreads(results['samples'], results['gt_label_map']))
        return results

    def _spreads(self, samples: Tensor, label_map: Tensor) -> Dict[str, float]:
        semflow = self.semflow
        starts, ends = [], []
        for number, sample in enumerate(samples):
            mask = self.perturbed(label_map, number)
            generators = self._generators('mask_to_image', mask, [number])
            image = semflow.codec.normalize(
                sample[None].to(semflow.device).float())
            z1, z0 = (semflow.encode(pixels) for pixels in (mask, image))
            starts.append(semflow.process.start_of_synthesis(z1, generators))
            ends.append(z0)
        return dict(
            sample_spread=_spread(ends), start_spread=_spread(starts))

    def _generators(self, direction: str, pixels: Tensor,
                    numbers: Sequence[int]) -> Generators:
        """Make the generators of a process that samples noise that way."""
        if direction not in self.semflow.stochastic:
            return None
        return [
            seeded_generator(self.seed, number, to_uint8(picture))
            for number, picture in zip(
                numbers, pixels.split(1), strict=True)
        ]

    def _condition(self, direction: str, numbers: Sequence[int]) -> Condition:
        """Tell what the style wants the network to know that way."""
        if direction != 'mask_to_image' or self.style is None:
            return None
        return self.style.condition(numbers)

    def _choices(self, requests: Sequence[Request]) -> Sequence[Any]:
        """Tell what the style chooses for every sample."""
        if self.style is None:
            return [None] * len(requests)
        return [self.style.choose(*request, self.seed) for request in requests]

    def _styled(self, requests: Sequence[Request],
                choices: Optional[Sequence[Any]] = None) -> Optional[Wrap]:
        """Make what wraps the network that draws; a style sees whole pictures."""
        tiling, style = self._tiling, self.style
        if style is None:
            return tiling
        label_maps = [label_map for label_map, _ in requests]
        choices = choices or self._choices(requests)
        return lambda network: style.wrap(
            network if tiling is None else tiling(network), label_maps, choices)

    def _synthesize_batch(self,
                          batch: Sequence[Request],
                          choices: Optional[Sequence[Any]] = None) -> Tensor:
        """Synthesise for label maps of one size: pixels, (B, 3, H, W)."""
        masks = torch.cat([self.perturbed(*request) for request in batch])
        return self._to_images(masks, batch, choices)

    def _to_images(self,
                   pseudo_masks: Tensor,
                   requests: Sequence[Request],
                   choices: Optional[Sequence[Any]] = None,
                   callback: Optional[StepCallback] = None,
                   condition: Condition = None) -> Tensor:
        numbers = [number for _, number in requests]
        style = self._condition('mask_to_image', numbers)
        wrap = self._styled(requests, choices)
        with self._autocast():
            return self.semflow.mask_to_image(
                pseudo_masks,
                self.num_steps,
                self.solver,
                generators=self._generators('mask_to_image', pseudo_masks,
                                            numbers),
                condition={**(condition or {}), **style} if style else condition,
                wrap=wrap,
                callback=callback)

    def _to_mask(self,
                 image: Tensor,
                 num_steps: int,
                 solver: Optional[str] = None) -> Tensor:
        semflow = self.semflow
        pixels = semflow.codec.normalize(image[None].to(semflow.device).float())
        with self._autocast():
            return semflow.image_to_mask(
                pixels,
                num_steps,
                solver,
                generators=self._generators('image_to_mask', pixels, [0]),
                wrap=self._tiling)

    def _autocast(self) -> ContextManager:
        # Autocast that is switched off would end one of the caller.
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.semflow.device.type, dtype=torch.bfloat16)


def _spread(latents: Sequence[Tensor]) -> float:
    """Average the absolute differences of all pairs."""
    return fmean((one - other).abs().mean().item()
                 for one, other in combinations(latents, 2))


def _tiling(
    factor: int,
    tile_size: Optional[Sides] = None,
    tile_stride: Optional[Sides] = None
) -> Optional[Wrap]:
    """Make what wraps a network for tiles in pixels."""
    if tile_size is None:
        if tile_stride is not None:
            raise ValueError(
                f'tile_stride={tile_stride} needs a tile_size, but got none')
        return None
    if tile_stride is None:
        tile_stride = tuple(
            max(side // (2 * factor), 1) * factor for side in tile_size)
    check_tiling(tile_size, tile_stride, ('tile_size', 'tile_stride'), factor)
    window, stride = (
        tuple(p // factor for p in pixels) for pixels in (tile_size, tile_stride))
    return partial(tile_network, window=window, stride=stride)


def image_and_labels(item: dict) -> Tuple[Tensor, Tensor]:
    """Take from an item of mmsegmentation's datasets what is evaluated.

    Args:
        item (dict): ``inputs``, BGR, uint8, shape (3, h, w), and
            ``data_samples`` with ``gt_sem_seg``.

    Returns:
        Tuple[Tensor, Tensor]: Arguments of :meth:`ImageSampler.evaluate`.
    """
    return item['inputs'].flip(0), item['data_samples'].gt_sem_seg.data[0]
