"""SemFlow itself: one flow between images and masks, in both directions."""

from typing import Dict, Optional, Sequence

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmseg_semflow.flow import (
    PseudoMaskCodec,
    RectifiedFlowPath,
    integrate,
    uniform_times,
)


class OneStepLoss(nn.Module):
    r"""Cross-entropy of the map that one Euler step predicts.

    A part of the batch gets t = 0. There the one-step prediction
    :math:`z_0 + v_\theta(z_0, 0)` is decoded, classified by the codec, and
    compared with the labels. Not in the paper: it teaches the network which
    errors of the velocity change a label.

    Args:
        weight (float): Weight of the loss. Defaults to 0.1.
        fraction (float): Part of the batch in (0, 1] that gets t = 0; at
            least one sample. Defaults to 0.5.
        scale (float): Factor of the codec's logits. Defaults to 4.
        class_weight (Sequence[float], optional): Weight of each class.
            Defaults to None, equal weights.

    Raises:
        ValueError: If ``fraction`` is not in (0, 1].
    """

    def __init__(self,
                 weight: float = 0.1,
                 fraction: float = 0.5,
                 scale: float = 4.,
                 class_weight: Optional[Sequence[float]] = None) -> None:
        super().__init__()
        if not 0 < fraction <= 1:
            raise ValueError(f'fraction must be in (0, 1], but got {fraction}')
        self.weight = weight
        self.fraction = fraction
        self.scale = scale
        self.register_buffer(
            'class_weight',
            None if class_weight is None else torch.tensor(
                class_weight, dtype=torch.float32),
            persistent=False)

    def num_samples(self, batch_size: int) -> int:
        """Count the samples of a batch that get t = 0."""
        return max(1, round(self.fraction * batch_size))

    def forward(self, logits: Tensor, label_map: Tensor,
                ignore_index: int) -> Tensor:
        """Compute the loss.

        Args:
            logits (Tensor): The codec's logits, shape
                (B, num_classes, H, W).
            label_map (Tensor): int64 labels, shape (B, H, W).
            ignore_index (int): Label of void pixels.

        Returns:
            Tensor: Mean over the pixels that are not void, a scalar; 0 if
            all are void.
        """
        loss = nn.functional.cross_entropy(
            self.scale * logits,
            label_map,
            weight=self.class_weight,
            ignore_index=ignore_index,
            reduction='sum')
        valid = label_map != ignore_index
        weights = valid.float()
        if self.class_weight is not None:
            weights = self.class_weight[label_map * valid] * valid
        return self.weight * loss / weights.sum().clamp(min=1e-6)


@MODELS.register_module()
class SemFlowModel(BaseModule):
    r"""One velocity network and one autoencoder for both directions.

    .. math::
        L = E_{t, (z_0, z_1)} |v_\theta(z_t, t) - (z_1 - z_0)|^2, \quad
        z_t = (1 - t) z_0 + t z_1

    SemFlow (Wang et al., NeurIPS 2024), Eq. 8 to 13. z0 is the latent of the
    image (sampled from the autoencoder's posterior in training, its mode at
    inference), z1 that of the pseudo mask (always the mode).

    Adapters to a toolbox hold this model under the name ``semflow`` and
    nothing else that is learned, so that their checkpoints are the same. A
    state dict of another codec or architecture is refused, with
    ``strict=False`` too.

    Args:
        velocity_net (dict): Config of the velocity network, for example
            :class:`VelocityUNet`.
        autoencoder (dict): Config of the frozen autoencoder, for example
            :class:`KLAutoencoder`.
        codec (dict): Arguments of :class:`PseudoMaskCodec`.
        time_sampling (str): Distribution of t in training, ``'uniform'`` or
            ``'logit_normal'``. Defaults to ``'uniform'``.
        ignore_void (bool): Whether void pixels count for nothing in the
            loss; a latent cell weighs as much as its share of pixels that
            are not void. False trains on the void colour like on any other,
            as the authors' released code does. Defaults to False.
        one_step_loss (dict, optional): Arguments of :class:`OneStepLoss`.
            Defaults to None, the paper's objective alone.
        init_cfg (dict, optional): Initialisation config. Defaults to None.
    """

    def __init__(self,
                 velocity_net: dict,
                 autoencoder: dict,
                 codec: dict,
                 time_sampling: str = 'uniform',
                 ignore_void: bool = False,
                 one_step_loss: Optional[dict] = None,
                 init_cfg: Optional[dict] = None) -> None:
        super().__init__(init_cfg)
        self.codec = PseudoMaskCodec(**codec)
        self.path = RectifiedFlowPath(time_sampling)
        self.velocity_net = MODELS.build(velocity_net)
        self.autoencoder = MODELS.build(autoencoder)
        self.ignore_void = ignore_void
        self.one_step_loss = (
            None if one_step_loss is None else OneStepLoss(**one_step_loss))
        self._check_parts()

    def _check_parts(self) -> None:
        channels = self.autoencoder.latent_channels
        if self.velocity_net.latent_channels != channels:
            raise ValueError(
                f'the autoencoder makes latents of {channels} channels, but '
                'unet.in_channels of the velocity_net is '
                f'{self.velocity_net.latent_channels}')
        weight = getattr(self.one_step_loss, 'class_weight', None)
        if weight is not None and len(weight) != self.codec.num_classes:
            raise ValueError(
                'one_step_loss.class_weight must have num_classes='
                f'{self.codec.num_classes} values, but got {len(weight)}')

    def loss(self, images: Tensor, pseudo_masks: Tensor,
             label_maps: Tensor) -> Dict[str, Tensor]:
        """Compute the training losses (Eq. 10).

        Args:
            images (Tensor): Images in [-1, 1], RGB, shape (B, 3, H, W).
            pseudo_masks (Tensor): Perturbed pseudo masks, about [-1, 1],
                shape (B, 3, H, W).
            label_maps (Tensor): int64 labels, shape (B, H, W).

        Returns:
            Dict[str, Tensor]: ``loss_flow`` and, if configured,
            ``loss_one_step``, float32 scalars.

        Raises:
            ValueError: If H or W does not fit the autoencoder's factor.
        """
        z0, z1 = self.encode_pair(images, pseudo_masks)
        t = self.path.sample_time(len(z0), device=z0.device)
        num_one_step = 0
        if self.one_step_loss is not None:
            num_one_step = self.one_step_loss.num_samples(len(z0))
            t[:num_one_step] = 0
        point = self.path.sample(z0, z1, t)
        pred_velocity = self.velocity_net(point.zt, point.t)
        error = (pred_velocity - point.velocity).square()
        losses = dict(loss_flow=self._mean_error(error, label_maps))
        if num_one_step:
            logits = self.codec.logits(
                self.autoencoder.decode(point.zt[:num_one_step] +
                                        pred_velocity[:num_one_step]))
            losses['loss_one_step'] = self.one_step_loss(
                logits, label_maps[:num_one_step], self.codec.ignore_index)
        return losses

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
                  solver: str = 'euler') -> Tensor:
        """Move pixels along the flow (Eq. 11).

        Pixels whose size does not fit the autoencoder are padded at the
        right and at the bottom by their last column and row, and the result
        is cropped.

        Args:
            pixels (Tensor): Images or pseudo masks in [-1, 1], shape
                (B, 3, H, W).
            times (Tensor): The solver's grid, shape (N + 1, ): from 0 to 1
                it leads from image to mask, from 1 to 0 back.
            solver (str): Name of the solver. Defaults to ``'euler'``.

        Returns:
            Tensor: Pixels at the other end, about [-1, 1], shape
            (B, 3, H, W).
        """
        height, width = pixels.shape[-2:]
        factor = self.autoencoder.factor
        padding = (0, -width % factor, 0, -height % factor)
        z = self.autoencoder.encode(
            nn.functional.pad(pixels, padding, mode='replicate')).mean
        z = integrate(self.velocity_net, z, times.to(z.device), solver)
        return self.autoencoder.decode(z)[..., :height, :width]

    def image_to_mask(self,
                      images: Tensor,
                      num_steps: int,
                      solver: str = 'euler') -> Tensor:
        """Segment images: the forward flow (Eq. 12).

        Args:
            images (Tensor): Images in [-1, 1], RGB, shape (B, 3, H, W).
            num_steps (int): Number of steps N.
            solver (str): Name of the solver. Defaults to ``'euler'``.

        Returns:
            Tensor: Pseudo masks, about [-1, 1], shape (B, 3, H, W); labels
            are ``codec.decode`` of them.
        """
        return self.transport(images, uniform_times(num_steps, 0., 1.), solver)

    def mask_to_image(self,
                      pseudo_masks: Tensor,
                      num_steps: int,
                      solver: str = 'euler') -> Tensor:
        """Synthesise images: the reverse flow (Eq. 13).

        Args:
            pseudo_masks (Tensor): Perturbed pseudo masks (Eq. 14), about
                [-1, 1], shape (B, 3, H, W).
            num_steps (int): Number of steps N.
            solver (str): Name of the solver. Defaults to ``'euler'``.

        Returns:
            Tensor: Images, RGB, about [-1, 1], shape (B, 3, H, W).
        """
        return self.transport(pseudo_masks, uniform_times(num_steps, 1., 0.),
                              solver)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args,
                              **kwargs) -> None:
        """Refuse weights of another codec or architecture.

        mmengine loads checkpoints with ``strict=False``, which would leave
        a network that does not fit at its random weights with a warning.
        """
        own = self.state_dict(prefix=prefix)
        for name, rule in dict(
                levels='anchors (num_classes, divisions, spacing)',
                void_level='void_color',
                noise_level='amplitude').items():
            key = f'{prefix}codec.{name}'
            found = state_dict.get(key)
            if found is None:
                raise ValueError(
                    f'not a SemFlow checkpoint: it has no {key!r} '
                    f'(its keys start like {sorted(state_dict)[:3]})')
            if found.shape != own[key].shape or not torch.equal(
                    found.to(own[key]), own[key]):
                raise ValueError(
                    f'the checkpoint has a codec with other {rule}: '
                    f'{_difference(found, own[key])} in the config')
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


def _difference(found: Tensor, own: Tensor) -> str:
    """Tell where two tensors differ first."""
    if found.shape != own.shape:
        return f'shape {tuple(found.shape)}, but {tuple(own.shape)}'
    if own.ndim < 2:
        return f'{found.tolist()}, but {own.tolist()}'
    row = int((found.to(own) != own).any(1).nonzero()[0])
    return f'{found[row].tolist()} of class {row}, but {own[row].tolist()}'
