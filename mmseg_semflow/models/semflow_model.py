"""One network between the latents of images and of pseudo masks."""

from functools import partial
from math import prod
from typing import Callable, Dict, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from mmseg_semflow.arguments import checked
from mmseg_semflow.flow import (
    Condition,
    Generators,
    Network,
    PseudoMaskCodec,
    StepCallback,
)
from mmseg_semflow.networks import LatentGaussian
from mmseg_semflow.registry import MODELS, BaseModule, ModuleList

from .checkpoint_guard import CheckpointGuard, rename_old_keys
from .losses import TrainingStep
from .processes import DIRECTIONS
from .refiner import check_reader


@MODELS.register_module()
@checked
class SemFlowModel(BaseModule):
    r"""Codec, autoencoder, network, process and losses, composed.

    SemFlow (Wang et al., NeurIPS 2024), Eq. 8 to 14: z0 is the latent of the
    image (sampled from the autoencoder's posterior in training, its mode at
    inference), z1 that of the perturbed pseudo mask (always the mode). The
    process says how a network leads from one to the other; the default is
    SemFlow's rectified flow.

    Adapters to a toolbox hold this model under the name ``semflow`` and
    nothing else that is learned, so that their checkpoints are the same. A
    state dict of another codec, process or architecture is refused, with
    ``strict=False`` too (:class:`CheckpointGuard`).

    Args:
        network (dict): Config of the network, for example
            :class:`VelocityUNet`: maps a state (B, C', h, w), flow times
            (B, ) and an optional condition, a dict of tensors, to a
            prediction (B, D', h, w).
        autoencoder (dict): Config of the frozen autoencoder, for example
            :class:`KLAutoencoder`.
        codec (dict): Arguments of :class:`PseudoMaskCodec`.
        process (dict): Config of the process. Defaults to
            ``dict(type='RectifiedFlow')``.
        losses (Sequence[dict]): Configs of the losses. Defaults to
            ``[dict(type='MatchingLoss')]``, the paper's objective alone.
        wrappers (Sequence[dict]): Configs of modules that are called with
            the network and its arguments in its place, such as
            :class:`EndStdPreconditioning`, the innermost first. Defaults to
            none.
        refiner (dict, optional): Config of what corrects the masks that
            :meth:`image_to_mask` leads to, such as :class:`LatentRefiner`.
            Defaults to None, nothing.
        channels_last (bool): Whether the weights of both networks lie in
            memory with the channels last. Checkpoints are the same. Defaults
            to False.
        compile_network (bool): Whether to compile the network by
            ``torch.compile``, in place. Checkpoints are the same. Defaults to
            False.
        partial_load (Sequence[str]): Beginnings of the keys in which a
            checkpoint may differ, see :class:`CheckpointGuard`; for
            fine-tuning with ``load_from``. Weights of losses may differ in
            any case. Defaults to none.
        init_cfg (dict, optional): Initialisation config. Defaults to None.

    Raises:
        ValueError: If the parts do not fit each other.
    """

    def __init__(self,
                 network: dict,
                 autoencoder: dict,
                 codec: dict,
                 process: Optional[dict] = None,
                 losses: Optional[Sequence[dict]] = None,
                 wrappers: Sequence[dict] = (),
                 refiner: Optional[dict] = None,
                 channels_last: bool = False,
                 compile_network: bool = False,
                 partial_load: Sequence[str] = (),
                 init_cfg: Optional[dict] = None) -> None:
        super().__init__(init_cfg)
        self.codec = PseudoMaskCodec(**codec)
        self.network = MODELS.build(network)
        self.autoencoder = MODELS.build(autoencoder)
        self.process = MODELS.build(process or dict(type='RectifiedFlow'))
        # Of mmengine, which initialises what it holds.
        self.wrappers = ModuleList(map(MODELS.build, wrappers))
        self.refiner = None if refiner is None else MODELS.build(refiner)
        self.losses = nn.ModuleList(
            map(MODELS.build, losses or [dict(type='MatchingLoss')]))
        if isinstance(partial_load, str):
            raise ValueError('partial_load must be a list of beginnings of keys, '
                             f'but got the text {partial_load!r}')
        self.guard = CheckpointGuard(
            {
                f'{part}.{name}': what
                for part in ('codec', 'process')
                for name, what in getattr(self, part).trained_with.items()
            }, ('losses.', *partial_load))
        self._identity: Optional[dict] = None
        self.process.check_network(
            self.network, self.autoencoder.latent_channels,
            prod(getattr(wrapper, 'num_predictions', 1)
                 for wrapper in self.wrappers))
        for wrapper in self.wrappers:
            self.process.check_wrapper(wrapper)
            if hasattr(wrapper, 'check_network'):
                wrapper.check_network(self.network)
        if self.refiner is not None:
            check_reader(self.refiner, self.autoencoder, self.codec.num_classes)
        for loss in self.losses:
            loss.check_model(self)
        if channels_last:
            self.to(memory_format=torch.channels_last)
        if compile_network:
            self.network.compile()

    @property
    def device(self) -> torch.device:
        """torch.device: Where it computes."""
        return self.codec.levels.device

    @property
    def stochastic(self) -> Tuple[str, ...]:
        """Tuple[str, ...]: Directions in which more is drawn than a perturbation."""
        styled = any(getattr(w, 'stochastic', False) for w in self.wrappers)
        return tuple(
            direction for direction in DIRECTIONS
            if direction in self.process.stochastic
            or (styled and direction == 'mask_to_image'))

    @property
    def velocity(self) -> Network:
        """Callable: The network as its wrappers leave it."""
        return self.wrapped(self.network)

    def wrapped(self, network: Network) -> Network:
        """Put the wrappers around a network, that of the model or one like it."""
        for wrapper in self.wrappers:
            network = partial(wrapper, network)
        return network

    def loss(self,
             images: Tensor,
             pseudo_masks: Tensor,
             label_maps: Tensor,
             condition: Condition = None) -> Dict[str, Tensor]:
        """Compute the training losses.

        Args:
            images (Tensor): Images in [-1, 1], RGB, shape (B, 3, H, W).
            pseudo_masks (Tensor): Perturbed pseudo masks, about [-1, 1],
                shape (B, 3, H, W).
            label_maps (Tensor): int64 labels, shape (B, H, W).
            condition (Dict[str, Tensor], optional): What the network knows
                besides. Defaults to None.

        Returns:
            Dict[str, Tensor]: float32 scalars, their names beginning with
            ``loss``.

        Raises:
            ValueError: If H or W does not fit the autoencoder's factor.
        """
        z0, z1 = self.encode_pair(images, pseudo_masks)
        return self.loss_of_latents(z0, z1, label_maps, condition)

    def loss_of_latents(self,
                        z0: Tensor,
                        z1: Tensor,
                        label_maps: Tensor,
                        condition: Condition = None) -> Dict[str, Tensor]:
        """Compute the training losses of a batch that is encoded.

        Args:
            z0 (Tensor): Image latents, sampled, shape (B, C, h, w).
            z1 (Tensor): Mask latents of the same shape.
            label_maps (Tensor): int64 labels, shape (B, H, W).
            condition (Dict[str, Tensor], optional): See :meth:`loss`.

        Returns:
            Dict[str, Tensor]: See :meth:`loss`.

        Raises:
            ValueError: If two losses have one name.
        """
        point = self.process.sample(z0, z1)
        for wrapper in self.wrappers:
            if hasattr(wrapper, 'training_condition'):
                condition = {
                    **wrapper.training_condition(z0, z1, point.t, label_maps),
                    **(condition or {})
                }
        prediction = self.velocity(point.state, point.t, condition)
        step = TrainingStep(z0, z1, label_maps, point, prediction)
        found: Dict[str, Tensor] = {}
        for loss in self.losses:
            values = loss(self, step)
            twice = found.keys() & values.keys()
            if twice:
                raise ValueError('every loss must have a name of its own, but '
                                 f'two of losses are logged as {min(twice)!r}: '
                                 'set the name of one')
            found.update(values)
        return found

    def loss_of_samples(self, images: Tensor,
                        data_samples: Sequence) -> Dict[str, Tensor]:
        """Compute the training losses of a toolbox' batch.

        Args:
            images (Tensor): Images in [-1, 1], RGB, shape (B, 3, H, W); or
                mean and deviation of their latents, shape (B, 2, C, h, w).
            data_samples (Sequence): With ``gt_sem_seg``, labels that are
                known to be valid, which are coloured and perturbed here, on
                their device. Or with ``gt_pseudo_mask`` and ``codec`` of the
                transforms of SemFlow; or, of a cache, with
                ``gt_mask_latent``, ``codec`` and ``autoencoder``.

        Returns:
            Dict[str, Tensor]: See :meth:`loss`.

        Raises:
            ValueError: If pseudo masks or latents were made by another codec
                or autoencoder than the model's.
        """
        for sample in data_samples:
            if 'codec' in sample and sample.codec != self.codec.spec:
                raise ValueError(
                    'pseudo masks must be made by the codec of the model, '
                    f'{self.codec.spec}, but the data were made by '
                    f'{sample.codec}')
        label_maps = torch.cat([s.gt_sem_seg.data for s in data_samples])
        if 'gt_mask_latent' in data_samples[0]:
            for sample in data_samples:
                self._check_autoencoder(
                    sample.autoencoder, sample.get('cache', 'this training'))
            z0 = LatentGaussian(*images.unbind(1)).sample()
            z1 = torch.stack([s.gt_mask_latent.data for s in data_samples])
            return self.loss_of_latents(z0, z1, label_maps)
        if 'gt_pseudo_mask' in data_samples[0]:
            masks = torch.stack([s.gt_pseudo_mask.data for s in data_samples])
        else:
            masks = self.perturbed_masks(label_maps)
        return self.loss(images, masks, label_maps)

    def perturbed_masks(self, label_maps: Tensor) -> Tensor:
        """Colour and perturb valid labels (Eq. 7 and 14), on their device.

        Args:
            label_maps (Tensor): Labels in [0, num_classes) or
                ``ignore_index``, int64, shape (B, H, W).

        Returns:
            Tensor: Perturbed pseudo masks, about [-1, 1], shape (B, 3, H, W).
        """
        levels = self.codec.encode(label_maps, check=False)
        return self.codec.normalize(self.codec.perturb(levels))

    def _check_autoencoder(self, cached: dict, cache: str) -> None:
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
                f'the latents of {cache} were cached with another autoencoder: its '
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

    def encode(self, pixels: Tensor) -> Tensor:
        """Encode pixels of any size, padded by their last column and row.

        Args:
            pixels (Tensor): Images or pseudo masks in [-1, 1], shape
                (B, 3, H, W).

        Returns:
            Tensor: The modes of their latents, shape (B, C, h, w).
        """
        height, width = pixels.shape[-2:]
        factor = self.autoencoder.factor
        padding = (0, -width % factor, 0, -height % factor)
        return self.autoencoder.encode(
            nn.functional.pad(pixels, padding, mode='replicate')).mean

    def transport(self,
                  pixels: Tensor,
                  times: Tensor,
                  solver: Optional[str] = None,
                  return_trajectory: bool = False,
                  generators: Generators = None,
                  condition: Condition = None,
                  wrap: Optional[Callable[[Network], Network]] = None,
                  callback: Optional[StepCallback] = None) -> Tensor:
        """Move pixels along the path.

        Pixels whose size does not fit the autoencoder are padded at the
        right and at the bottom by their last column and row, and the result
        is cropped. Gradients pass, for callers that do not switch them off.

        Args:
            pixels (Tensor): Images or pseudo masks in [-1, 1], shape
                (B, 3, H, W).
            times (Tensor): The solver's grid, shape (N + 1, ): from 0 to 1
                it leads from image to mask, from 1 to 0 back.
            solver (str, optional): Name of the solver. Defaults to None,
                that of the process.
            return_trajectory (bool): Whether to return what all times decode
                to. Defaults to False.
            generators (Sequence[torch.Generator], optional): For a direction
                that is :attr:`stochastic`, one per sample, on the CPU. Defaults
                to None, torch's global one.
            condition (Dict[str, Tensor], optional): What the network knows
                besides state and time. Defaults to None, or what wrappers
                such as :class:`StyleToken` and :class:`TextPrompt` say.
            wrap (Callable, optional): Makes another network of the network,
                such as one for tiles (:func:`tile_network`). Defaults to
                None.
            callback (Callable, optional): Called with the flow time, a
                scalar, and the latent state after every step of the solver;
                what it returns takes the place of the state, unless it is
                None. Defaults to None.

        Returns:
            Tensor: Pixels at the other end, about [-1, 1], shape
            (B, 3, H, W), or, with ``return_trajectory``, at all times, shape
            (N + 1, B, 3, H, W).

        Raises:
            ValueError: If the process does not lead that way.
        """
        height, width = pixels.shape[-2:]
        z = self.encode(pixels)
        telling = [w for w in self.wrappers if hasattr(w, 'sampling_condition')]
        if times[0] > times[-1] and telling:
            label_maps = self.codec.recover(pixels)
            for wrapper in telling:
                condition = {
                    **wrapper.sampling_condition(z, label_maps, generators),
                    **(condition or {})
                }
        z = self._solve(
            z, times, solver, return_trajectory, generators,
            condition, wrap, callback)
        if not return_trajectory:
            return self.autoencoder.decode(z)[..., :height, :width]
        return torch.stack([
            self.autoencoder.decode(state)[..., :height, :width] for state in z
        ])

    def _solve(self,
               z: Tensor,
               times: Tensor,
               solver: Optional[str] = None,
               return_trajectory: bool = False,
               generators: Generators = None,
               condition: Condition = None,
               wrap: Optional[Callable[[Network], Network]] = None,
               callback: Optional[StepCallback] = None) -> Tensor:
        """Move latents; see :meth:`transport`."""
        self.process.check_direction(
            DIRECTIONS[int(times[0] > times[-1])], 'transport')
        network = self.velocity if wrap is None else wrap(self.velocity)
        if condition is not None:
            network = partial(network, condition=condition)
        return self.process.solve(network, z, times.to(z.device),
                                  solver or self.process.default_solver,
                                  return_trajectory, generators, callback)

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
                that of the process.
            **kwargs: Further arguments of :meth:`transport`.

        Returns:
            Tensor: Pseudo masks, about [-1, 1], shape (B, 3, H, W); labels
            are ``codec.decode`` of them. With a refiner they have the colours
            of the labels that it corrected.
        """
        if self.refiner is None:
            return self.transport(images, self.process.times(num_steps, 0., 1.),
                                  solver, **kwargs)
        labels = self.image_to_logits(images, num_steps, solver, **kwargs).argmax(1)
        return self.codec.normalize(self.codec.encode(labels, check=False))

    def image_to_logits(self,
                        images: Tensor,
                        num_steps: int,
                        solver: Optional[str] = None,
                        **kwargs) -> Tensor:
        """Segment images, and score all classes.

        Args:
            images (Tensor): Images in [-1, 1], RGB, shape (B, 3, H, W).
            num_steps (int): Number of steps N.
            solver (str, optional): See :meth:`image_to_mask`. Defaults to
                None.
            **kwargs: Further arguments of :meth:`transport`.

        Returns:
            Tensor: Logits, shape (B, num_classes, H, W): those of the nearest
            anchor, corrected by the refiner where there is one.
        """
        if self.refiner is None:
            return self.codec.logits(
                self.image_to_mask(images, num_steps, solver, **kwargs))
        height, width = images.shape[-2:]
        z0 = self.encode(images)
        z1 = self._solve(z0, self.process.times(num_steps, 0., 1.), solver, **kwargs)
        return self.latents_to_logits(z1, z0)[..., :height, :width]

    def latents_to_logits(self, z1: Tensor, z0: Tensor) -> Tensor:
        """Score all classes of mask latents that are found.

        Args:
            z1 (Tensor): Mask latents, shape (B, C, h, w).
            z0 (Tensor): Latents of their images, the same shape.

        Returns:
            Tensor: Logits, shape (B, num_classes, H, W), of whole cells.
        """
        pixels = self.autoencoder.decode(z1)
        if self.refiner is None:
            return self.codec.logits(pixels)
        return self.refiner(self.codec, pixels, z1, z0)

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
                that of the process.
            **kwargs: Further arguments of :meth:`transport`.

        Returns:
            Tensor: Images, RGB, about [-1, 1], shape (B, 3, H, W).
        """
        return self.transport(pseudo_masks, self.process.times(num_steps, 1., 0.),
                              solver, **kwargs)

    def check_weights(self, state_dict: dict, prefix: str) -> None:
        """Bring a state dict to today's keys, in place, and let the guard check it.

        Args:
            state_dict (dict): Of a checkpoint.
            prefix (str): What stands before the keys of the model.

        Raises:
            ValueError: If it is not of this model, see :class:`CheckpointGuard`.
        """
        rename_old_keys(state_dict, prefix)
        self.guard.check(state_dict, self.state_dict(prefix=prefix), prefix,
                         type(self).__name__)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args,
                              **kwargs) -> None:
        """Load what the guard lets pass."""
        self.check_weights(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
