"""What the package is compared with: the same work, written down plainly."""

from typing import Any, List, Sequence, Tuple

import numpy as np
import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import LOOPS
from mmengine.runner import IterBasedTrainLoop
from torch import Tensor, nn

from mmseg_semflow.flow import PseudoMaskCodec
from mmseg_semflow.models import SemFlowModel

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
                codec: PseudoMaskCodec) -> Tuple[Tensor, Tensor]:
    """Make a training batch the plain way, one pair after the other.

    Args:
        samples (Sequence[dict]): What a pipeline loads: ``img``, BGR, uint8,
            shape (H, W, 3), and ``gt_seg_map``, shape (H, W).
        codec (PseudoMaskCodec): Gives colours and amplitude.

    Returns:
        Tuple[Tensor, Tensor]: Images and perturbed pseudo masks, RGB, about
        [-1, 1], each of shape (B, 3, H, W), on the CPU.
    """
    images, pseudo_masks = [], []
    for sample in samples:
        image = torch.from_numpy(sample['img'].astype(np.float32))
        images.append(image.permute(2, 0, 1).flip(0) / 127.5 - 1)
        levels = colour_by_class(labels_of(sample), codec)
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
