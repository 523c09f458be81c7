"""What the package is compared with: the same work, written down plainly."""

import copy
from typing import Any, List, Sequence, Tuple

import numpy as np
import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import LOOPS, OPTIMIZERS
from mmengine.runner import IterBasedTrainLoop
from torch import Tensor, nn

from mmseg_semflow.flow import PseudoMaskCodec
from mmseg_semflow.models import SemFlowModel
from mmseg_semflow.networks import KLAutoencoder

from .timing import Times, time_round

# The transforms of SemFlow, which leave nothing to colour for the model.
COLOURING = ('GeneratePseudoMask', 'PerturbPseudoMask')
PACKING = ('PackSegInputs', 'PackSemFlowInputs')


def stock_pipeline(pipeline: Sequence[dict]) -> List[dict]:
    """Leave out the transforms of SemFlow: the model colours and perturbs.

    Args:
        pipeline (Sequence[dict]): A training pipeline that ends in
            ``PackSegInputs`` or ``PackSemFlowInputs``.

    Returns:
        List[dict]: The same, ending in ``PackSegInputs``.

    Raises:
        ValueError: If it ends in anything else.
    """
    kept = [dict(t) for t in pipeline if _name(t) not in COLOURING]
    if not kept or _name(kept[-1]) not in PACKING:
        raise ValueError(
            f'the train_pipeline must end in one of {PACKING} to give a step of '
            f'SemFlow, but got {_name(kept[-1]) if kept else None}')
    kept[-1]['type'] = 'PackSegInputs'
    return kept


def colouring_end(pack: dict, codec: dict) -> List[dict]:
    """List the transforms of SemFlow that do the work of the model's colouring.

    Args:
        pack (dict): The config of ``PackSegInputs`` in whose place they stand.
        codec (dict): Arguments of :class:`PseudoMaskCodec`.

    Returns:
        List[dict]: Three transforms.
    """
    return [
        dict(type='GeneratePseudoMask', codec=codec),
        dict(type='PerturbPseudoMask'),
        dict(pack, type='PackSemFlowInputs')
    ]


def _name(transform: dict) -> str:
    return transform['type'].split('.')[-1]


def colour_by_class(label_map: Tensor, codec: PseudoMaskCodec) -> Tensor:
    """Colour labels the plain way: class by class, in floats.

    Args:
        label_map (Tensor): int64 labels, shape (H, W).
        codec (PseudoMaskCodec): Gives the colours.

    Returns:
        Tensor: Pseudo mask in 8-bit levels, shape (H, W, 3).
    """
    pseudo_mask = torch.zeros(*label_map.shape, 3)
    for label, level in enumerate(codec.levels.cpu()):
        pseudo_mask[label_map == label] = level
    pseudo_mask[label_map == codec.ignore_index] = codec.void_level.cpu()
    return pseudo_mask


def plain_batch(samples: Sequence[dict],
                codec: PseudoMaskCodec,
                perturbed: bool = True) -> Tuple[Tensor, Tensor]:
    """Make a training batch the plain way, one pair after the other.

    Args:
        samples (Sequence[dict]): What a pipeline loads: ``img``, BGR, uint8,
            shape (H, W, 3), and ``gt_seg_map``, shape (H, W).
        codec (PseudoMaskCodec): Gives colours and amplitude.
        perturbed (bool): Whether to perturb the pseudo masks. Defaults to True.

    Returns:
        Tuple[Tensor, Tensor]: Images and pseudo masks, RGB, about
        [-1, 1], each of shape (B, 3, H, W), on the CPU.
    """
    images, pseudo_masks = [], []
    for sample in samples:
        image = torch.from_numpy(sample['img'].astype(np.float32))
        images.append(image.permute(2, 0, 1).flip(0) / 127.5 - 1)
        levels = colour_by_class(labels_of(sample), codec)
        if perturbed:
            levels += torch.empty_like(levels).uniform_(-codec.amplitude,
                                                        codec.amplitude)
        pseudo_masks.append(levels.permute(2, 0, 1) / 127.5 - 1)
    return torch.stack(images), torch.stack(pseudo_masks)


def labels_of(sample: dict) -> Tensor:
    """Read the int64 labels (H, W) of what a pipeline loads."""
    return torch.from_numpy(sample['gt_seg_map'].astype(np.int64))


def plain_loss(model: SemFlowModel, images: Tensor,
               pseudo_masks: Tensor) -> Tensor:
    """Compute Eq. 10 the plain way: two encodes, each of the whole batch.

    Args:
        model (SemFlowModel): Gives the networks.
        images (Tensor): Images in [-1, 1], shape (B, 3, H, W).
        pseudo_masks (Tensor): Pseudo masks, shape (B, 3, H, W).

    Returns:
        Tensor: The loss, a scalar.
    """
    vae = getattr(model.autoencoder, 'vae', None)
    sliced = getattr(vae, 'use_slicing', False)
    if sliced:
        vae.disable_slicing()
    with torch.no_grad():
        z0 = model.autoencoder.encode(images).sample()
        z1 = model.autoencoder.encode(pseudo_masks).mean
    if sliced:
        vae.enable_slicing()
    t = torch.rand(len(z0), device=z0.device)
    s = t[:, None, None, None]
    pred = model.velocity((1 - s) * z0 + s * z1, t)
    return nn.functional.mse_loss(pred, z1 - z0)


class ReleasedStep:
    """The training step of the authors' released code, restated.

    It encodes images and pseudo masks by two calls, each on the whole batch,
    from floats that the loader has coloured; perturbs by 0.1 (u - 0.5) on
    [-1, 1]; draws t in the networks' precision; has no gradient checkpointing;
    and reads the loss twice for its logs. VAE and UNet are bfloat16, with
    float32 master weights that AdamW moves, as DeepSpeed's ZeRO-2 keeps them;
    gradients are not clipped, since under DeepSpeed their setting has no
    effect.

    Args:
        semflow (SemFlowModel): Gives the networks, which are copied.
        optimizer (dict): Config of the optimizer.
        dtype (torch.dtype): Precision of the networks. Defaults to bfloat16.

    Raises:
        ValueError: If the autoencoder is not Stable Diffusion's.
    """

    def __init__(self,
                 semflow: SemFlowModel,
                 optimizer: dict,
                 dtype: torch.dtype = torch.bfloat16) -> None:
        if not isinstance(semflow.autoencoder, KLAutoencoder):
            raise ValueError(
                'the released step encodes by a KLAutoencoder: '
                'model.semflow.autoencoder must be one, but got '
                f'{type(semflow.autoencoder).__name__}')
        self.vae = copy.deepcopy(semflow.autoencoder.vae).to(
            dtype, memory_format=torch.contiguous_format)
        self.vae.disable_slicing()
        self.unet = copy.deepcopy(semflow.network.unet).to(
            dtype, memory_format=torch.contiguous_format).train()
        self.unet.disable_gradient_checkpointing()
        self.prompt = semflow.network.null_prompt.to(dtype)
        self.weights = list(self.unet.parameters())
        self.masters = [w.detach().float().clone() for w in self.weights]
        self.optimizer = OPTIMIZERS.build(dict(optimizer, params=self.masters))

    def __call__(self, images: Tensor, pseudo_masks: Tensor) -> float:
        """Train one iteration.

        Args:
            images (Tensor): Images in [-1, 1], float32, shape (B, 3, H, W), on
                the CPU.
            pseudo_masks (Tensor): Pseudo masks of the same shape.

        Returns:
            float: The loss.
        """
        images = images.to(self.prompt)
        pseudo_masks = pseudo_masks.to(self.prompt)
        scale = self.vae.config.scaling_factor
        with torch.no_grad():
            noise = torch.rand_like(pseudo_masks) - 0.5
            z0 = self.vae.encode(images).latent_dist.sample() * scale
            z1 = self.vae.encode(
                pseudo_masks + 0.1 * noise).latent_dist.mode() * scale
        t = torch.rand(len(z0), device=z0.device, dtype=z0.dtype)
        s = t[:, None, None, None]
        pred = self.unet(s * z1 + (1 - s) * z0, 1000 * t,
                         self.prompt.repeat(len(z0), 1, 1)).sample
        loss = nn.functional.mse_loss(pred.float(), (z1 - z0).float())
        logged = loss.item()
        loss.backward()
        for master, weight in zip(self.masters, self.weights, strict=True):
            master.grad = weight.grad.float()
            weight.grad = None
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_copy_(self.weights, self.masters)
        return (logged + loss.item()) / 2


def bare_step(model: nn.Module, wrapper: OptimWrapper,
              data_batch: dict) -> None:
    """Train one iteration without the toolbox: what a loop by hand does."""
    with wrapper.optim_context(model):
        data = model.data_preprocessor(data_batch, True)
        loss = sum(model(**data, mode='loss').values())
    loss.backward()
    if wrapper.clip_grad_kwargs:
        torch.nn.utils.clip_grad_norm_(
            [p for p in model.parameters() if p.requires_grad],
            **wrapper.clip_grad_kwargs)
    wrapper.optimizer.step()
    wrapper.optimizer.zero_grad()


@LOOPS.register_module()
class AlternatingLoop(IterBasedTrainLoop):
    """Train by the runner and by a bare loop of the same step, in turns.

    Attributes:
        times (Dict[str, List[float]]): Seconds of both, one per iteration.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.times: Times = dict(runner=[], bare=[])

    def run_iter(self, data_batch: dict) -> None:
        """Time one iteration of each."""
        runner_iter = super().run_iter
        ways = dict(
            runner=lambda: runner_iter(data_batch),
            bare=lambda: bare_step(self.runner.model, self.runner.optim_wrapper,
                                   data_batch))
        time_round(ways, self._iter, self.times)
