"""Translation models of mmagic that synthesise images for masks."""

from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import torch
from mmagic.structures import DataSample
from mmengine.dist import get_world_size
from torch import Tensor, nn

from mmseg_semflow.flow import seeded_generator
from mmseg_semflow.models.generators.mmagic_batches import evaluate_batch
from mmseg_semflow.pixels import to_uint8
from mmseg_semflow.synthesis import ImageSampler


class MaskToImage:
    """Mixin before a translation model of mmagic: masks to photos.

    The model trains as mmagic's does, on the batches of
    :class:`MaskTranslationDataPreProcessor`, and its results are those that
    the metrics of the synthesis read.

    Args:
        generator (dict): Config of the generator.
        discriminator (dict): Config of the discriminator.
        data_preprocessor (dict): Config of
            :class:`MaskTranslationDataPreProcessor`.
        size_divisor (int): What the generator needs height and width to be
            multiples of: images are padded by their last column and row and
            the result is cropped. Defaults to 1.
        test_cfg (dict, optional): Arguments of :class:`ImageSampler`.
            Defaults to None.
        **kwargs: Further arguments of mmagic's model, for example
            ``loss_config``.

    Attributes:
        reachable (Tuple[str]): Domains that are translated to.

    Raises:
        ValueError: If ``test_cfg`` breaks a rule of :class:`ImageSampler`, or
            ``size_divisor`` is below 1.
    """

    reachable: Tuple[str, ...] = ('photo', )

    def __init__(self,
                 generator: dict,
                 discriminator: dict,
                 data_preprocessor: dict,
                 size_divisor: int = 1,
                 test_cfg: Optional[dict] = None,
                 **kwargs: Any) -> None:
        if size_divisor < 1:
            raise ValueError(f'size_divisor must be >= 1, but got {size_divisor}')
        super().__init__(
            generator,
            discriminator,
            default_domain='photo',
            reachable_domains=list(self.reachable),
            related_domains=['photo', 'mask'],
            data_preprocessor=data_preprocessor,
            **kwargs)
        self.size_divisor = size_divisor
        self.test_cfg = dict(test_cfg or {})
        self.sampler()

    def sampler(self) -> 'GANSampler':
        """Make what synthesises the images as ``test_cfg`` says."""
        return GANSampler(self, **self.test_cfg)

    def init_weights(self) -> None:
        """Initialise every network as its class does.

        mmagic 1.2.0's own, which also keeps a record of it, ends in an
        UnboundLocalError.
        """
        for networks in (self.generators, self.discriminators):
            for network in self.get_module(networks).values():
                network.init_weights()

    def translation(self,
                    image: Tensor,
                    target_domain: Optional[str] = None,
                    **kwargs: Any) -> Tensor:
        """Translate images of any size.

        Args:
            image (Tensor): Photos or masks, shape (B, C, H, W).
            target_domain (str, optional): Domain of the result. Defaults to
                None, ``'photo'``.
            **kwargs: Further arguments of the generator.

        Returns:
            Tensor: The others, shape (B, C', H, W).
        """
        height, width = image.shape[-2:]
        divisor = self.size_divisor
        padding = (0, -width % divisor, 0, -height % divisor)
        image = nn.functional.pad(image, padding, mode='replicate')
        image = super().translation(image, target_domain, **kwargs)
        return image[..., :height, :width]

    def train_step(self, data: dict, optim_wrapper: Any) -> Dict[str, Tensor]:
        """Train as mmagic does, in one process.

        Raises:
            RuntimeError: If there are several processes.
        """
        if get_world_size() > 1:
            # Its loss functions take the networks out of their DDP wrappers.
            raise RuntimeError(
                'mmagic 1.2.0 does not average the gradients of translation '
                f'models: {type(self).__name__} must be trained in 1 process, '
                f'but got {get_world_size()}')
        return super().train_step(data, optim_wrapper)

    def val_step(self, data: dict) -> List[DataSample]:
        """Synthesise for a batch; see :func:`evaluate_batch`."""
        data_samples = self.data_preprocessor(data)['data_samples']
        return evaluate_batch(self.sampler(), data_samples)

    def test_step(self, data: dict) -> List[DataSample]:
        """Synthesise for a batch; see :func:`evaluate_batch`."""
        return self.val_step(data)


class GANSampler(ImageSampler):
    """Synthesise images for label maps by a GAN.

    Whatever noise the generator samples depends on the seed, on the number of
    the sample and on the label map, and on nothing else; the random numbers
    of the caller stay as they are.

    Args:
        model (MaskToImage): The model.
        **kwargs: Arguments of :class:`ImageSampler`.
    """

    def __init__(self, model: MaskToImage, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = model

    @property
    def protocol(self) -> str:
        """str: See :attr:`ImageSampler.protocol`."""
        return (f'{self.num_samples} samples per mask, '
                f'{type(self.model).__name__}, seed {self.seed}')

    @torch.no_grad()
    def synthesize(self, requests: Sequence[Tuple[Tensor, int]]) -> List[Tensor]:
        """See :meth:`ImageSampler.synthesize`."""
        return [self._synthesize_one(*request) for request in requests]

    def _synthesize_one(self, label_map: Tensor, number: int) -> Tensor:
        label_map = self.resize(label_map)
        encoder = self.model.data_preprocessor
        mask = encoder.encode(label_map[None].to(encoder.codec.levels.device))
        source = seeded_generator(self.seed, number, label_map.to(torch.uint8))
        with _seeded(source.initial_seed(), mask.device):
            return to_uint8(self.model.translation(mask))[0]


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's own generators, by which layers such as dropout sample."""
    devices = [device] if device.type == 'cuda' else []
    with torch.random.fork_rng(devices=devices):
        # manual_seed would also seed every other GPU.
        torch.default_generator.manual_seed(seed)
        for one in devices:
            with torch.cuda.device(one):
                torch.cuda.manual_seed(seed)
        yield
