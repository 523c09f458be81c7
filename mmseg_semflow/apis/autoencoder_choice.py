"""What an autoencoder makes of the pictures and the masks of a dataset."""

from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import DATASETS, init_default_scope
from mmengine.utils import track_iter_progress
from mmseg.evaluation import IoUMetric
from torch import Tensor

from mmseg_semflow.flow import PseudoMaskCodec, octave_noise
from mmseg_semflow.pixels import resize_labels
from mmseg_semflow.synthesis import image_and_labels

from .latent_cache import build_autoencoder
from .loading import meta_of_dataset, read_config
from .tables import Row


class AutoencoderTrial:
    """Send the test data of a config through its autoencoder.

    Args:
        cfg (Config): The config, whose autoencoder gets its weights.
        num_images (int, optional): How many of the test images, evenly
            spaced. Defaults to None, all.
        device (str, optional): Defaults to None, a GPU if there is one.

    Raises:
        ValueError: If the config is none of SemFlow, or ``num_images`` is
            below 1.
    """

    def __init__(self,
                 cfg: Config,
                 num_images: Optional[int] = None,
                 device: Optional[str] = None) -> None:
        if num_images is not None and num_images < 1:
            raise ValueError(f'num_images must be >= 1, but got {num_images}')
        self.cfg = cfg = read_config(cfg)
        init_default_scope(cfg.get('default_scope', 'mmseg'))
        self.device = torch.device(device or get_device())
        self.autoencoder = build_autoencoder(cfg).to(self.device).eval()
        self.codec = PseudoMaskCodec(**cfg.model.semflow.codec)
        self.dataset = DATASETS.build(cfg.test_dataloader.dataset)
        self.classes = meta_of_dataset(cfg)['classes']
        count = min(num_images or len(self.dataset), len(self.dataset))
        self.indices = [i * len(self.dataset) // count for i in range(count)]

    def _pairs(self) -> Iterator[Tuple[int, Tensor, Tensor]]:
        """Read images in [-1, 1], (1, 3, H, W), and their labels (H, W)."""
        factor = self.autoencoder.factor
        for index in track_iter_progress(self.indices):
            image, labels = image_and_labels(self.dataset[index])
            height, width = (
                side // factor * factor for side in image.shape[-2:])
            labels = resize_labels(labels, image.shape[-2:])
            image = PseudoMaskCodec.normalize(image.float())[None]
            yield index, image[..., :height, :width], labels[:height, :width]

    def _mask(self, codec: PseudoMaskCodec, labels: Tensor,
              generator: Optional[torch.Generator] = None) -> Tensor:
        levels = codec.encode(labels[None])
        if generator is not None:
            levels = codec.perturb(levels, generator)
        return codec.normalize(levels).to(self.device)

    @torch.no_grad()
    def statistics(self) -> Dict[str, Row]:
        """Measure mean and deviation of the latents, as they leave it.

        Returns:
            Dict[str, Row]: Of ``'pictures'``, of ``'masks'``, perturbed, and
            of ``'both'``, equally weighted: ``mean`` and ``std`` over all
            channels, and ``channel_means`` and ``channel_stds``, lists.
        """
        sums: Dict[str, List[Tensor]] = dict(pictures=[], masks=[])
        for index, image, labels in self._pairs():
            pixels = dict(
                pictures=image.to(self.device),
                masks=self._mask(self.codec, labels, _generator(index)))
            for name, value in pixels.items():
                z = self.autoencoder.encode(value).mean[0].double().cpu()
                z = z.flatten(1)
                sums[name].append(torch.stack([z.mean(1), z.square().mean(1)]))
        moments = {name: torch.stack(parts).mean(0) for name, parts in sums.items()}
        moments['both'] = (moments['pictures'] + moments['masks']) / 2
        return {name: _described(*pair) for name, pair in moments.items()}

    @torch.no_grad()
    def crop_errors(self, crop_size: Tuple[int, int]) -> Dict[str, Row]:
        """Compare crops of latents with the latents of the same crops.

        One crop of each picture and mask, at a random place that depends on
        its index alone.

        Args:
            crop_size (Tuple[int, int]): Height and width in pixels.

        Returns:
            Dict[str, Row]: Of ``'pictures'`` and of ``'masks'``: ``border`` and
            ``inside``, the root of the mean square difference of the outermost
            cells and of the others, over the deviation of the latents.

        Raises:
            ValueError: If the size has a side below 3 cells, does not fit the
                autoencoder's factor, or exceeds the images.
        """
        factor = self.autoencoder.factor
        if any(side % factor or side < 3 * factor for side in crop_size):
            raise ValueError(
                f'crop_size must be multiples of {factor}, at least '
                f'{3 * factor}, but got {tuple(crop_size)}')
        sums = {name: torch.zeros(3) for name in ('pictures', 'masks')}
        for index, image, labels in self._pairs():
            place = _generator(index)
            masks = self._mask(self.codec, labels, _generator(index))
            corner = []
            for side, crop in zip(labels.shape, crop_size, strict=True):
                if crop > side:
                    raise ValueError(
                        f'crop_size {tuple(crop_size)} exceeds an image of '
                        f'{tuple(labels.shape)} (height, width)')
                cells = (side - crop) // factor + 1
                corner.append(int(torch.randint(cells, (), generator=place)))
            cell_rows, cell_columns = (
                slice(first, first + crop // factor)
                for first, crop in zip(corner, crop_size, strict=True))
            rows, columns = (
                slice(factor * part.start, factor * part.stop)
                for part in (cell_rows, cell_columns))
            for name, pixels in dict(
                    pictures=image.to(self.device), masks=masks).items():
                whole = self.autoencoder.encode(pixels).mean[
                    ..., cell_rows, cell_columns]
                part = self.autoencoder.encode(pixels[..., rows, columns]).mean
                square = (whole - part).square()
                inside = square[..., 1:-1, 1:-1]
                ring = square.numel() - inside.numel()
                sums[name] += torch.stack([
                    (square.sum() - inside.sum()) / ring,
                    inside.mean(), whole.var()
                ]).cpu()
        return {
            name: dict(
                border=(border / variance).sqrt().item(),
                inside=(inside / variance).sqrt().item())
            for name, (border, inside, variance) in sums.items()
        }

    @torch.no_grad()
    def round_trips(self, codecs: Dict[str, PseudoMaskCodec],
                    noises: Sequence[Sequence[float]] = ((0., ), )) -> Iterator[Row]:
        """Encode and decode pseudo masks, and look for the nearest anchors.

        Args:
            codecs (Dict[str, PseudoMaskCodec]): By name.
            noises (Sequence[Sequence[float]]): Noises on the latents, each the
                deviations of :func:`octave_noise`, of which a single one is
                white noise, in the units in which they leave the autoencoder.
                Defaults to none.

        Yields:
            Row: Codec, deviations, ``mIoU``, ``aAcc`` and the IoU of each
            class that is in the pictures, in percent, at the size at which
            the test pipeline leaves the images.
        """
        totals = {(name, tuple(noise)): torch.zeros(4, codec.num_classes)
                  for name, codec in codecs.items() for noise in noises}
        for index, _, labels in self._pairs():
            for name, codec in codecs.items():
                z = self.autoencoder.encode(self._mask(codec, labels)).mean
                for noise in noises:
                    noisy = z + octave_noise(z, noise, [_generator(index)])
                    found = codec.decode(self.autoencoder.decode(noisy))
                    totals[name, tuple(noise)] += torch.stack(
                        IoUMetric.intersect_and_union(
                            found[0].cpu(), labels, codec.num_classes,
                            codec.ignore_index))
        for (name, noise), (both, either, _, true) in totals.items():
            seen = true > 0
            ious = 100 * both / either.clamp(min=1)
            yield dict(
                codec=name,
                latent_noise=' '.join(f'{std:g}' for std in noise),
                mIoU=ious[seen].mean().item(),
                aAcc=(100 * both.sum() / true.sum()).item(),
                **{
                    self.classes[label]: ious[label].item()
                    for label in seen.nonzero().flatten().tolist()
                })


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _described(mean: Tensor, square: Tensor) -> Row:
    variance = square - mean.square()
    whole = square.mean() - mean.mean().square()
    return dict(
        mean=mean.mean().item(),
        std=whole.sqrt().item(),
        channel_means=mean.tolist(),
        channel_stds=variance.sqrt().tolist())


def codec_for_trial(num_classes: int,
                    divisions: int,
                    spacing: int,
                    spread: bool = False,
                    ignore_index: int = 255) -> PseudoMaskCodec:
    """Make a codec without perturbation.

    Args:
        num_classes (int): Number of classes.
        divisions (int): Number of levels per channel, k.
        spacing (int): Distance s between levels, in 8-bit levels.
        spread (bool): Whether classes take colours that lie far apart, each
            the farthest from those before, in place of the first ones (Eq.
            7). Defaults to False.
        ignore_index (int): Label of void pixels, which get the colour of
            three levels per channel that is farthest from all classes.
            Defaults to 255.

    Returns:
        PseudoMaskCodec: The codec.

    Raises:
        ValueError: If ``divisions`` or ``spacing`` break a rule of the codec.
    """
    cube = torch.cartesian_prod(*[torch.arange(divisions)] * 3).float()
    codes = list(range(min(num_classes, len(cube))))
    if spread:
        codes = [0]
        while len(codes) < min(num_classes, len(cube)):
            codes.append(int(torch.cdist(cube, cube[codes]).amin(1).argmax()))
    colours = 127.5 * torch.cartesian_prod(*[torch.arange(3)] * 3)
    void = torch.cdist(colours, spacing * cube[codes]).amin(1).argmax()
    return PseudoMaskCodec(
        num_classes,
        divisions,
        spacing,
        amplitude=0.,
        codes=codes if len(codes) == num_classes else None,
        void_color=colours[void].int().tolist(),
        ignore_index=ignore_index)
