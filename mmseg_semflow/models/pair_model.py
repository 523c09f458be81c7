"""What SemFlow and the methods it is compared with have in common."""

from abc import abstractmethod
from typing import Callable, Dict, Optional, Sequence, Tuple

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmseg_semflow.flow import (
    Generators,
    PseudoMaskCodec,
    check_num_steps,
    check_solver,
    tile_velocity,
    uniform_times,
)
from mmseg_semflow.networks import LatentGaussian

Network = Callable[[Tensor, Tensor], Tensor]
DIRECTIONS = ('image_to_mask', 'mask_to_image')


class PairModel(BaseModule):
    """One network between the latents of images and of pseudo masks.

    Adapters to a toolbox hold such a model under the name ``semflow`` and
    nothing else that is learned, so that their checkpoints are the same. A
    state dict of another codec or architecture is refused, with
    ``strict=False`` too.

    Args:
        velocity_net (dict): Config of the network, for example
            :class:`VelocityUNet`.
        autoencoder (dict): Config of the frozen autoencoder, for example
            :class:`KLAutoencoder`.
        codec (dict): Arguments of :class:`PseudoMaskCodec`.
        ignore_void (bool): Whether void pixels count for nothing in the
            loss; a latent cell weighs as much as its share of pixels that
            are not void. False trains on the void colour like on any other,
            as the authors' released code does. Defaults to False.
        channels_last (bool): Whether the weights of both networks lie in
            memory with the channels last. Checkpoints are the same. Defaults
            to False.
        compile_network (bool): Whether to compile the network by
            ``torch.compile``, in place. Checkpoints are the same. Defaults to
            False.
        init_cfg (dict, optional): Initialisation config. Defaults to None.

    Attributes:
        default_solver (str): What samples where nothing else is asked for.
        stochastic (bool): Whether sampling draws noise, besides the
            perturbation of a pseudo mask.
        state_parts (Tuple[int, int]): Number of latents that the network
            receives and returns, stacked as channels.
        preconditioned (bool): Whether ``end_std`` of the network serves it.
        directions (Tuple[str, ...]): Which of ``'image_to_mask'`` and
            ``'mask_to_image'`` it learns.
        trained_with (Dict[str, str]): Buffers that a checkpoint must have
            with the same values, and what they say in its words.
    """

    default_solver = 'euler'
    stochastic = False
    state_parts = (1, 1)
    preconditioned = False
    directions = DIRECTIONS
    trained_with = {
        'codec.levels': 'codec with other anchors (num_classes, divisions, '
        'spacing)',
        'codec.void_level': 'codec with other void_color',
        'codec.noise_level': 'codec with other amplitude'
    }

    def __init__(self,
                 velocity_net: dict,
                 autoencoder: dict,
                 codec: dict,
                 ignore_void: bool = False,
                 channels_last: bool = False,
                 compile_network: bool = False,
                 init_cfg: Optional[dict] = None) -> None:
        super().__init__(init_cfg)
        self.codec = PseudoMaskCodec(**codec)
        self.velocity_net = MODELS.build(velocity_net)
        self.autoencoder = MODELS.build(autoencoder)
        self.ignore_void = ignore_void
        self._identity: Optional[dict] = None
        self._check_network()
        if channels_last:
            self.to(memory_format=torch.channels_last)
        if compile_network:
            self.velocity_net.compile()

    def _check_network(self) -> None:
        if getattr(self.velocity_net, 'end_std', None) is not None and \
                not self.preconditioned:
            raise ValueError(
                'velocity_net.end_std is derived for the velocity of SemFlow: '
                f'it must be None for {type(self).__name__}, but got '
                f'{self.velocity_net.end_std.tolist()}')
        channels = self.autoencoder.latent_channels
        for name, parts in zip(('in_channels', 'out_channels'),
                               self.state_parts, strict=True):
            found = getattr(self.velocity_net, name)
            if found != parts * channels:
                raise ValueError(
                    f'the autoencoder makes latents of {channels} channels '
                    f'and {type(self).__name__} takes {parts} of them: '
                    f'unet.{name} of the velocity_net must be '
                    f'{parts * channels}, but got {found}')

    def check_padding(self, data_preprocessor: nn.Module) -> None:
        """Raise a ValueError if labels are padded with anything but void."""
        padding = getattr(data_preprocessor, 'seg_pad_val', None)
        if padding != self.codec.ignore_index:
            raise ValueError(
                'seg_pad_val of the data_preprocessor must be ignore_index='
                f'{self.codec.ignore_index} of the codec, but got {padding}')

    @classmethod
    def check_fits(cls, model: nn.Module, adapter: str, direction: str) -> None:
        """Raise a ValueError if an adapter can do nothing with its model."""
        if not isinstance(model, cls):
            raise ValueError(f'{adapter} needs semflow.type={cls.__name__!r}, '
                             f'but got {type(model).__name__!r}')
        model.check_direction(direction, adapter)

    def check_direction(self, direction: str, user: str) -> None:
        """Raise a ValueError if it does not learn a direction."""
        if direction not in self.directions:
            raise ValueError(
                f'this {type(self).__name__} learns {self.directions[0]} '
                f'alone, but {user} asks for {direction}')

    def check_sampling(self, num_steps: int, solver: str) -> None:
        """Raise a ValueError if it cannot sample like that."""
        check_num_steps(num_steps)
        check_solver(solver)

    def loss(self, images: Tensor, pseudo_masks: Tensor,
             label_maps: Tensor) -> Dict[str, Tensor]:
        """Compute the training losses.

        Args:
            images (Tensor): Images in [-1, 1], RGB, shape (B, 3, H, W).
            pseudo_masks (Tensor): Perturbed pseudo masks, about [-1, 1],
                shape (B, 3, H, W).
            label_maps (Tensor): int64 labels, shape (B, H, W).

        Returns:
            Dict[str, Tensor]: float32 scalars, their names beginning with
            ``loss``.

        Raises:
            ValueError: If H or W does not fit the autoencoder's factor.
        """
        return self.loss_of_latents(*self.encode_pair(images, pseudo_masks),
                                    label_maps)

    @abstractmethod
    def loss_of_latents(self, z0: Tensor, z1: Tensor,
                        label_maps: Tensor) -> Dict[str, Tensor]:
        """Compute the training losses of a batch that is encoded.

        Args:
            z0 (Tensor): Image latents, sampled, shape (B, C, h, w).
            z1 (Tensor): Mask latents of the same shape.
            label_maps (Tensor): int64 labels, shape (B, H, W).

        Returns:
            Dict[str, Tensor]: See :meth:`loss`.
        """

    @abstractmethod
    def solve(self, network: Network, z: Tensor, times: Tensor, solver: str,
              return_trajectory: bool, generators: Generators) -> Tensor:
        """Move latents along the path.

        Args:
            network (Callable): The network, or its mean over tiles: maps a
                state (B, C', h, w) and flow times (B, ) to (B, D', h, w).
            z (Tensor): Latents at the first time, shape (B, C, h, w).
            times (Tensor): Flow times, from 0 to 1 or back, shape (N + 1, ).
            solver (str): Name of the solver.
            return_trajectory (bool): Whether to return all states.
            generators (Sequence[torch.Generator], optional): One a sample.

        Returns:
            Tensor: Latents at the last time, shape (B, C, h, w), or, with
            ``return_trajectory``, at all, shape (N + 1, B, C, h, w).
        """

    def loss_of_samples(self, images: Tensor,
                        data_samples: Sequence) -> Dict[str, Tensor]:
        """Compute the training losses of a toolbox' batch.

        Args:
            images (Tensor): Images in [-1, 1], RGB, shape (B, 3, H, W); or
                mean and deviation of their latents, shape (B, 2, C, h, w).
            data_samples (Sequence): With ``gt_sem_seg``, ``gt_pseudo_mask``
                and ``codec``, as the pipeline packs them; or, of a cache,
                with ``gt_mask_latent`` and ``autoencoder`` in place of
                ``gt_pseudo_mask``.

        Returns:
            Dict[str, Tensor]: See :meth:`loss`.

        Raises:
            ValueError: If the pipeline made no pseudo masks, or made them
                by another codec than the model's, or latents are of another
                autoencoder.
        """
        cached = 'gt_mask_latent' in data_samples[0]
        for sample in data_samples:
            if cached:
                self._check_autoencoder(sample.autoencoder)
            elif 'gt_pseudo_mask' not in sample:
                raise ValueError(
                    'a training sample has no gt_pseudo_mask: the '
                    'train_pipeline must end with GeneratePseudoMask, '
                    'PerturbPseudoMask and PackSemFlowInputs')
            if sample.codec != self.codec.spec:
                raise ValueError(
                    'the codecs of the train_pipeline and of the model must '
                    f'be the same, but got {sample.codec} in the pipeline '
                    f'and {self.codec.spec} in the model')
        label_maps = torch.cat([s.gt_sem_seg.data for s in data_samples])
        masks = torch.stack([
            (s.gt_mask_latent if cached else s.gt_pseudo_mask).data
            for s in data_samples
        ])
        if cached:
            z0 = LatentGaussian(*images.unbind(1)).sample()
            return self.loss_of_latents(z0, masks, label_maps)
        return self.loss(images, masks, label_maps)

    def _check_autoencoder(self, cached: dict) -> None:
        """Raise a ValueError if latents of a cache are of another one."""
        if self._identity is None:
            self._identity = self.autoencoder.identity()
        own = self._identity
        # Training may have rounded the weights: what is left counts.
        weights = {k: cached['weights'].get(k) for k in own['weights']}
        was = dict(cached, weights=weights)
        if was != own:
            key = next(key for key in own if was.get(key) != own[key])
            raise ValueError(
                'the latents were cached with another autoencoder: its '
                f'{key} was {was.get(key)} and is {own[key]} in this '
                'training. Cache them again with the weights that training '
                'starts from (sd_folder, load_from)')

    @torch.no_grad()
    def encode_pair(self, images: Tensor, pseudo_masks: Tensor) -> tuple:
        """Encode images and pseudo masks for training, in one call.

        Args:
            images (Tensor): Images in [-1, 1], shape (B, 3, H, W).
            pseudo_masks (Tensor): Pseudo masks, shape (B, 3, H, W).

        Returns:
            tuple[Tensor, Tensor]: z0, sampled, and z1, the mode, each of
            shape (B, C, h, w).
        """
        latents = self.autoencoder.encode(torch.cat([images, pseudo_masks]))
        of_images, of_masks = latents.chunk(2)
        return of_images.sample(), of_masks.mean

    def _mean_error(self, error: Tensor, label_maps: Tensor) -> Tensor:
        if not self.ignore_void:
            return error.mean()
        valid = (label_maps != self.codec.ignore_index).float()
        weight = nn.functional.avg_pool2d(valid[:, None],
                                          self.autoencoder.factor)
        total = weight.sum().clamp(min=1e-6) * error.shape[1]
        return (weight * error).sum() / total

    @torch.no_grad()
    def transport(self,
                  pixels: Tensor,
                  times: Tensor,
                  solver: Optional[str] = None,
                  tile_size: Optional[Tuple[int, int]] = None,
                  tile_stride: Optional[Tuple[int, int]] = None,
                  return_trajectory: bool = False,
                  generators: Generators = None) -> Tensor:
        """Move pixels along the path.

        Pixels whose size does not fit the autoencoder are padded at the
        right and at the bottom by their last column and row, and the result
        is cropped.

        Args:
            pixels (Tensor): Images or pseudo masks in [-1, 1], shape
                (B, 3, H, W).
            times (Tensor): The solver's grid, shape (N + 1, ): from 0 to 1
                it leads from image to mask, from 1 to 0 back.
            solver (str, optional): Name of the solver. Defaults to None,
                ``default_solver``.
            tile_size (Tuple[int, int], optional): Height and width in pixels
                of overlapping windows in which the network is averaged at
                every step, for pixels larger than it was trained on.
                Defaults to None, no windows.
            tile_stride (Tuple[int, int], optional): Distance of the windows
                in pixels. Defaults to None, half of ``tile_size``.
            return_trajectory (bool): Whether to return what all times decode
                to. Defaults to False.
            generators (Sequence[torch.Generator], optional): For a model
                that draws noise, one a sample, on the CPU. Defaults to None,
                torch's global one.

        Returns:
            Tensor: Pixels at the other end, about [-1, 1], shape
            (B, 3, H, W), or, with ``return_trajectory``, at all times, shape
            (N + 1, B, 3, H, W).

        Raises:
            ValueError: If the tiles do not fit the autoencoder's factor or a
                stride exceeds its tile, or the model does not lead that way.
        """
        self.check_direction(DIRECTIONS[int(times[0] > times[-1])], 'transport')
        height, width = pixels.shape[-2:]
        factor = self.autoencoder.factor
        network = self.velocity_net
        if tile_size is not None:
            network = tile_velocity(network,
                                    *self.check_tiles(tile_size, tile_stride))
        padding = (0, -width % factor, 0, -height % factor)
        z = self.autoencoder.encode(
            nn.functional.pad(pixels, padding, mode='replicate')).mean
        z = self.solve(network, z, times.to(z.device),
                       solver or self.default_solver, return_trajectory,
                       generators)
        if not return_trajectory:
            return self.autoencoder.decode(z)[..., :height, :width]
        return torch.stack([
            self.autoencoder.decode(state)[..., :height, :width] for state in z
        ])

    def check_tiles(
        self,
        tile_size: Optional[Tuple[int, int]],
        tile_stride: Optional[Tuple[int, int]] = None
    ) -> Optional[Tuple[Tuple[int, int], Tuple[int, int]]]:
        """Convert tiles of :meth:`transport` from pixels to latent cells.

        Raises:
            ValueError: If they do not fit the autoencoder's factor or a
                stride exceeds its tile.
        """
        if tile_size is None:
            return None
        factor = self.autoencoder.factor
        if tile_stride is None:
            tile_stride = [
                max(side // (2 * factor), 1) * factor for side in tile_size
            ]
        for name, pixels in dict(
                tile_size=tile_size, tile_stride=tile_stride).items():
            if len(pixels) != 2 or any(p < 1 or p % factor for p in pixels):
                raise ValueError(
                    f'{name} must be (height, width), both multiples of the '
                    f"autoencoder's factor {factor}, but got {tuple(pixels)}")
        if any(s > t for s, t in zip(tile_stride, tile_size, strict=True)):
            raise ValueError(
                f'tile_stride={tuple(tile_stride)} must not exceed '
                f'tile_size={tuple(tile_size)}: pixels would be left out')
        cells = [
            tuple(p // factor for p in pixels)
            for pixels in (tile_size, tile_stride)
        ]
        return cells[0], cells[1]

    def image_to_mask(self,
                      images: Tensor,
                      num_steps: int,
                      solver: Optional[str] = None,
                      **kwargs) -> Tensor:
        """Segment images (SemFlow, Eq. 12).

        Args:
            images (Tensor): Images in [-1, 1], RGB, shape (B, 3, H, W).
            num_steps (int): Number of steps N.
            solver (str, optional): Name of the solver. Defaults to None,
                ``default_solver``.
            **kwargs: Further arguments of :meth:`transport`.

        Returns:
            Tensor: Pseudo masks, about [-1, 1], shape (B, 3, H, W); labels
            are ``codec.decode`` of them.
        """
        return self.transport(images, uniform_times(num_steps, 0., 1.), solver,
                              **kwargs)

    def mask_to_image(self,
                      pseudo_masks: Tensor,
                      num_steps: int,
                      solver: Optional[str] = None,
                      **kwargs) -> Tensor:
        """Synthesise images (SemFlow, Eq. 13).

        Args:
            pseudo_masks (Tensor): Perturbed pseudo masks (Eq. 14), about
                [-1, 1], shape (B, 3, H, W).
            num_steps (int): Number of steps N.
            solver (str, optional): Name of the solver. Defaults to None,
                ``default_solver``.
            **kwargs: Further arguments of :meth:`transport`.

        Returns:
            Tensor: Images, RGB, about [-1, 1], shape (B, 3, H, W).
        """
        return self.transport(pseudo_masks, uniform_times(num_steps, 1., 0.),
                              solver, **kwargs)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args,
                              **kwargs) -> None:
        """Refuse weights of another codec or architecture.

        mmengine loads checkpoints with ``strict=False``, which would leave
        a network that does not fit at its random weights with a warning.
        """
        own = self.state_dict(prefix=prefix)
        for name, what in self.trained_with.items():
            key = f'{prefix}{name}'
            found = state_dict.get(key)
            if found is None:
                raise ValueError(
                    f'not a checkpoint of {type(self).__name__}: it has no '
                    f'{key!r}')
            if not _equal(found, own[key]):
                raise ValueError(
                    f'the checkpoint has a {what}: '
                    f'{_difference(found, own[key])} in the config')
            state_dict[key] = own[key]
        wrong = [
            key for key in own.keys() | {
                k
                for k in state_dict if k.startswith(prefix)
            } if key not in own or key not in state_dict
            or own[key].shape != state_dict[key].shape
        ]
        if wrong:
            key = min(wrong)
            shapes = [
                tuple(d[key].shape) if key in d else 'nothing'
                for d in (state_dict, own)
            ]
            raise ValueError(
                f'the checkpoint has another architecture: {len(wrong)} keys '
                f'differ, for example {key!r} is {shapes[0]} in the '
                f'checkpoint and {shapes[1]} in the config')
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _equal(found: Tensor, own: Tensor) -> bool:
    """Whether two tensors are equal but for the rounding of one of them."""
    coarse = min(found.dtype, own.dtype, key=lambda dtype: dtype.itemsize)
    return found.shape == own.shape and torch.equal(
        found.to(own.device, coarse), own.to(coarse))


def _difference(found: Tensor, own: Tensor) -> str:
    """Tell where two tensors differ first."""
    if found.shape != own.shape:
        return f'shape {tuple(found.shape)}, but {tuple(own.shape)}'
    if own.ndim < 2:
        return f'{found.tolist()}, but {own.tolist()}'
    row = int((found.to(own) != own).any(1).nonzero()[0])
    return f'{found[row].tolist()} of class {row}, but {own[row].tolist()}'
