"""Drawing of images for label maps, reproducibly."""

import warnings
from abc import ABC, abstractmethod
from contextlib import nullcontext
from typing import Any, ContextManager, Dict, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from mmseg_semflow.flow import (
    Generators,
    check_num_steps,
    perturb,
    seeded_generator,
    uniform_times,
)

from .pair_model import PairModel


class ImageSampler(ABC):
    """Draw images for label maps: what is common to flows and GANs.

    Args:
        num_samples (int): Number of images K a label map. Defaults to 1.
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
                 size: Optional[Tuple[int, int]] = None) -> None:
        if not isinstance(num_samples, int) or num_samples < 1:
            raise ValueError('num_samples must be an integer >= 1, but got '
                             f'{num_samples!r}')
        if size is not None and (len(size) != 2 or min(size) < 1):
            raise ValueError(
                f'size must be (height, width), both >= 1, but got {size}')
        if not isinstance(seed, int) or isinstance(seed, bool):
            raise ValueError(f'seed must be an integer, but got {seed!r}')
        self.num_samples = num_samples
        self.seed = seed
        self.size = size

    @property
    @abstractmethod
    def protocol(self) -> str:
        """str: How the images are drawn, to stand beside every figure."""

    @abstractmethod
    def draw(self, label_map: Tensor, number: int) -> Tensor:
        """Draw one image.

        Args:
            label_map (Tensor): Labels in [0, num_classes) or
                ``ignore_index``, int64, shape (H, W).
            number (int): Which of the samples, from 0.

        Returns:
            Tensor: RGB, uint8, shape (3, H, W), or of ``size``.

        Raises:
            ValueError: If there is any other label.
        """

    def __call__(self, label_map: Tensor) -> Tensor:
        """Draw all samples of a label map: RGB, uint8, (K, 3, H, W)."""
        return torch.stack([
            self.draw(label_map, number) for number in range(self.num_samples)
        ])

    def resize(self, label_map: Tensor) -> Tensor:
        """Resize labels (H, W) by nearest to ``size``, if it is set."""
        if self.size is None:
            return label_map
        return resize_labels(label_map, self.size)

    def evaluate(self, image: Tensor, label_map: Tensor) -> Dict[str, Any]:
        """Draw the samples of a label map and what metrics compare them with.

        Args:
            image (Tensor): The real image, RGB, uint8, shape (3, h, w).
            label_map (Tensor): Its labels, int64, of any size; they are
                brought to ``size`` or else to that of the image, (H, W).

        Returns:
            Dict[str, Any]: All images BGR, uint8, as in mmagic:
            ``gt_img`` and ``fake_img`` (the first sample), shape (3, H, W);
            ``samples``, shape (K, 3, H, W); ``gt_label_map``, shape (H, W);
            and ``protocol``.
        """
        size = tuple(self.size or image.shape[-2:])
        if tuple(image.shape[-2:]) != size:
            image = nn.functional.interpolate(
                image[None].float(), size, mode='bilinear', antialias=True)
            image = image[0].round().clamp(0, 255).to(torch.uint8)
        label_map = resize_labels(label_map, size)
        samples = self(label_map)
        return dict(
            protocol=self.protocol,
            gt_img=image.flip(0),
            gt_label_map=label_map,
            fake_img=samples[0].flip(0),
            samples=samples.flip(1))


class Synthesizer(ImageSampler):
    r"""Draw images for label maps by the reverse flow (SemFlow, Eq. 13, 14).

    The noise of an image depends on the seed, on its number among the samples
    and on the label map, and on nothing else; and every image is transported
    alone, since sums over a batch round differently from those over one image
    and an adaptive solver chooses its steps for all of a batch. So the same
    seed gives the same bytes on one device, whatever is drawn besides.

    Args:
        semflow (PairModel): The model; it keeps its device.
        num_steps (int): Number of solver steps N. Defaults to 25.
        solver (str, optional): Name of the solver. Defaults to None, the
            model's own: ``'euler'`` for SemFlow.
        num_samples (int): See :class:`ImageSampler`. Defaults to 1.
        seed (int): Seed of the perturbation. Defaults to 0.
        size (Tuple[int, int], optional): See :class:`ImageSampler`. Defaults
            to None.
        amplitude (float, optional): Half-width of the perturbation in 8-bit
            levels. Defaults to None, that of the training; with another one
            images get darker or overexposed (Fig. 8), hence a warning.
        tile_size (Tuple[int, int], optional): See
            :meth:`PairModel.transport`. Defaults to None.
        tile_stride (Tuple[int, int], optional): See
            :meth:`PairModel.transport`. Defaults to None.
        dtype (str, optional): ``'bfloat16'`` for autocast. Defaults to None.
        segment_steps (int, optional): Number of steps, of the model's own
            solver, by which :meth:`evaluate` segments what was drawn.
            Defaults to None, it does not.
        round_trip (bool): Whether :meth:`evaluate` also brings the real image
            to its mask and back. Defaults to False.

    Raises:
        ValueError: If an argument breaks its rule.
    """

    def __init__(self,
                 semflow: PairModel,
                 num_steps: int = 25,
                 solver: Optional[str] = None,
                 num_samples: int = 1,
                 seed: int = 0,
                 size: Optional[Tuple[int, int]] = None,
                 amplitude: Optional[float] = None,
                 tile_size: Optional[Tuple[int, int]] = None,
                 tile_stride: Optional[Tuple[int, int]] = None,
                 dtype: Optional[str] = None,
                 segment_steps: Optional[int] = None,
                 round_trip: bool = False) -> None:
        super().__init__(num_samples, seed, size)
        if solver is None:
            solver = semflow.default_solver
        semflow.check_sampling(num_steps, solver)
        if segment_steps is not None:
            check_num_steps(segment_steps)
        if tile_stride is not None and tile_size is None:
            raise ValueError(
                f'tile_stride={tile_stride} needs a tile_size, but got none')
        semflow.check_tiles(tile_size, tile_stride)
        if dtype not in (None, 'bfloat16'):
            raise ValueError(
                f"dtype must be None or 'bfloat16', but got {dtype!r}")
        trained = semflow.codec.amplitude
        if amplitude is None:
            amplitude = trained
        limit = semflow.codec.spacing / 2
        if not 0 <= amplitude < limit:
            raise ValueError('amplitude must be in [0, spacing / 2) = '
                             f'[0, {limit}), but got {amplitude}')
        if amplitude != trained:
            warnings.warn(
                f'amplitude={amplitude} is not that of the training, '
                f'{trained}: a smaller one gives dim images, a larger one '
                'overexposed ones (SemFlow, Fig. 8)',
                stacklevel=2)
        self.semflow = semflow
        self.num_steps = num_steps
        self.solver = solver
        self.amplitude = amplitude
        self.tiles = dict(tile_size=tile_size, tile_stride=tile_stride)
        self.dtype = dtype
        self.segment_steps = segment_steps
        self.round_trip = round_trip

    @property
    def settings(self) -> dict:
        """dict: What the images depend on besides weights and masks."""
        return dict(
            num_steps=self.num_steps,
            solver=self.solver,
            seed=self.seed,
            amplitude=self.amplitude,
            size=self.size and list(self.size),
            dtype=self.dtype,
            **{key: tile and list(tile) for key, tile in self.tiles.items()})

    @property
    def protocol(self) -> str:
        """str: See :attr:`ImageSampler.protocol`."""
        segmented = '' if self.segment_steps is None else (
            f', segmented by {self.semflow.default_solver} '
            f'{self.segment_steps}')
        return (f'{self.num_samples} samples a mask, {self.solver} '
                f'{self.num_steps}, amplitude {self.amplitude:g}, seed '
                f'{self.seed}{segmented}')

    @property
    def device(self) -> torch.device:
        """torch.device: Device of the model."""
        return self.semflow.codec.levels.device

    def perturbed(self, label_map: Tensor, number: int) -> Tensor:
        """Make the pseudo mask from which an image is drawn.

        Args:
            label_map (Tensor): Labels, int64, shape (H, W).
            number (int): Which of the samples, from 0.

        Returns:
            Tensor: Perturbed pseudo mask, about [-1, 1], shape (1, 3, H, W).
        """
        codec = self.semflow.codec
        levels = perturb(
            codec.encode(label_map[None].to(self.device)).cpu(), self.amplitude,
            seeded_generator(self.seed, number, label_map.to(torch.uint8)))
        return codec.normalize(levels.to(self.device))

    def _noise(self, pixels: Tensor, number: int = 0) -> Generators:
        """Make the generator of a model that draws noise on its way."""
        if not self.semflow.stochastic:
            return None
        return [seeded_generator(self.seed, number, to_uint8(pixels))]

    def draw(self, label_map: Tensor, number: int) -> Tensor:
        """Draw one image; see :meth:`ImageSampler.draw`."""
        pseudo_mask = self.perturbed(self.resize(label_map), number)
        return to_uint8(self._to_image(pseudo_mask, number))[0]

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
        with self._autocast():
            states = self.semflow.transport(
                pixels,
                uniform_times(self.num_steps, start, end),
                self.solver,
                return_trajectory=True,
                generators=self._noise(pixels),
                **self.tiles)
        return to_uint8(states[:, 0])

    def evaluate(self, image: Tensor, label_map: Tensor) -> Dict[str, Any]:
        """Draw and compare; see :meth:`ImageSampler.evaluate`.

        Args:
            image (Tensor): The real image, RGB, uint8, shape (3, h, w).
            label_map (Tensor): Its labels, int64, of any size.

        Returns:
            Dict[str, Any]: Besides, with ``segment_steps``
            ``sample_label_maps``, shape (K, H, W); with ``round_trip``
            ``round_trip_img`` (through the pseudo mask as the flow leaves it)
            and ``label_round_trip_img`` (through the labels), (3, H, W).
        """
        results = super().evaluate(image, label_map)
        if self.segment_steps is not None:
            results['sample_label_maps'] = torch.cat([
                self.semflow.codec.decode(
                    self._to_mask(sample, self.segment_steps))
                for sample in results['samples'].flip(1)
            ])
        if self.round_trip:
            pseudo_mask = self._to_mask(
                results['gt_img'].flip(0), self.num_steps, self.solver)
            labels = self.semflow.codec.decode(pseudo_mask)[0]
            results['round_trip_img'] = to_uint8(
                self._to_image(pseudo_mask))[0].flip(0)
            results['label_round_trip_img'] = self.draw(labels, 0).flip(0)
        return results

    def _to_image(self, pseudo_mask: Tensor, number: int = 0) -> Tensor:
        with self._autocast():
            return self.semflow.mask_to_image(
                pseudo_mask,
                self.num_steps,
                self.solver,
                generators=self._noise(pseudo_mask, number),
                **self.tiles)

    def _to_mask(self,
                 image: Tensor,
                 num_steps: int,
                 solver: Optional[str] = None) -> Tensor:
        pixels = self.semflow.codec.normalize(image[None].to(self.device).float())
        with self._autocast():
            return self.semflow.image_to_mask(
                pixels,
                num_steps,
                solver,
                generators=self._noise(pixels),
                **self.tiles)

    def _autocast(self) -> ContextManager:
        # Autocast that is switched off would end one of the caller.
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


def image_and_labels(item: dict) -> Tuple[Tensor, Tensor]:
    """Take from an item of mmsegmentation's datasets what is evaluated.

    Args:
        item (dict): ``inputs``, BGR, uint8, shape (3, h, w), and
            ``data_samples`` with ``gt_sem_seg``.

    Returns:
        Tuple[Tensor, Tensor]: Arguments of :meth:`Synthesizer.evaluate`.
    """
    return item['inputs'].flip(0), item['data_samples'].gt_sem_seg.data[0]


def resize_labels(label_map: Tensor, size: Tuple[int, int]) -> Tensor:
    """Resize labels (H, W) by nearest to (height, width)."""
    if tuple(label_map.shape) == tuple(size):
        return label_map
    return nn.functional.interpolate(
        label_map[None, None].float(), tuple(size),
        mode='nearest-exact')[0, 0].long()


def paint(label_map: Tensor, palette: Sequence[Sequence[int]]) -> Tensor:
    """Give every label its colour.

    Args:
        label_map (Tensor): Labels in [0, 255], shape (H, W).
        palette (Sequence[Sequence[int]]): RGB colours of the classes. All
            other labels are void and black.

    Returns:
        Tensor: RGB, uint8, shape (H, W, 3), on the CPU.
    """
    colors = torch.zeros(256, 3, dtype=torch.uint8)
    colors[:len(palette)] = torch.tensor(
        palette, dtype=torch.uint8).reshape(-1, 3)
    return colors[label_map.cpu().long()]


def to_uint8(pixels: Tensor) -> Tensor:
    """Round pixels from [-1, 1] to 8-bit levels of the same shape."""
    return ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
