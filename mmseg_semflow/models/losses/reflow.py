"""Distillation for few steps: the flow between what the flow itself drew."""

from typing import TYPE_CHECKING, Any, Dict, Optional

import torch
from torch import Tensor
from torch.func import functional_call

from mmseg_semflow.arguments import checked
from mmseg_semflow.flow import Network, RectifiedFlowPath
from mmseg_semflow.pixels import to_uint8
from mmseg_semflow.registry import MODELS

from ..checkpoint_guard import PREFIX, weights_of
from ..processes import RectifiedFlow
from .training_loss import TrainingLoss, TrainingStep

if TYPE_CHECKING:
    from ..semflow_model import SemFlowModel


@MODELS.register_module()
@checked
class ReflowLoss(TrainingLoss):
    r"""Eq. 10 on pairs of which a teacher drew the picture.

    .. math:: E_t |v_\theta(z_t, t) - (z_1 - \hat z_0)|^2, \quad
        z_t = (1 - t) \hat z_0 + t z_1

    where :math:`\hat z_0` is what a finished network draws in ``num_steps``
    steps from the mask latent :math:`z_1` with its noise (reflow, Liu et al.,
    ICLR 2023, Sec. 2.2). Many pictures fit a mask, one belongs to a mask with
    its noise: at t = 1 the best answer is that picture and no mean of many,
    so that few steps draw what the teacher draws in many. Segmentation keeps
    learning from real pictures, by the other losses. Not in the paper.

    For fine-tuning: with ``load_from`` the same checkpoint. The teacher's
    weights are not those of the model: checkpoints do not hold them. The
    network is called twice in a step; with FSDP it cannot be.

    Args:
        teacher (str): Checkpoint of a training of the same model, losses apart.
            Read by the first step of training.
        weight (float): Weight of the loss. Defaults to 1.
        last_fraction (float): Part of a batch, in (0, 1], whose masks are
            drawn: its last samples, at least one. Defaults to 0.5.
        num_steps (int): Steps of the teacher. Defaults to 10.
        end_fraction (float): Part of the drawn that is trained at t = 1, where
            synthesis begins, at least one; the others at uniform t. Defaults
            to 0.5.
        min_agreement (float): In [0, 1]. Pairs are left out if the judge finds less
            than this share of the labels, void apart, in the picture: labels that
            drift are not learned. Defaults to 0, none.
        judge (dict, optional): Config of what labels pictures, such as a
            :class:`SegmentorJudge` that was trained on real ones. Defaults to None,
            one step of the model in training, which knows its own mistakes least.
        name (str): Logged as ``loss_`` and this, beside the share of pairs that
            count, this and ``_kept``. Defaults to ``'reflow'``.

    Raises:
        ValueError: If a number breaks its rule; at the first step, if the
            teacher is of another model.
        FileNotFoundError: At the first step, if there is no such file.
    """

    direction = 'mask_to_image'

    def __init__(self,
                 teacher: str,
                 weight: float = 1.,
                 last_fraction: float = 0.5,
                 num_steps: int = 10,
                 end_fraction: float = 0.5,
                 min_agreement: float = 0.,
                 judge: Optional[dict] = None,
                 name: str = 'reflow') -> None:
        super().__init__()
        for key, value in dict(
                last_fraction=last_fraction, end_fraction=end_fraction).items():
            if not 0 < value <= 1:
                raise ValueError(
                    f'{key} of ReflowLoss must be in (0, 1], but got {value}')
        if not 0 <= min_agreement <= 1:
            raise ValueError('min_agreement of ReflowLoss must be in [0, 1], but '
                             f'got {min_agreement}')
        if num_steps < 1:
            raise ValueError(
                f'num_steps of ReflowLoss must be >= 1, but got {num_steps}')
        self.teacher = teacher
        self.weight = weight
        self.last_fraction = last_fraction
        self.num_steps = num_steps
        self.end_fraction = end_fraction
        if judge is not None and not min_agreement:
            raise ValueError('a judge of ReflowLoss decides by min_agreement, but that '
                             'is 0: set it, or leave out the judge')
        self.min_agreement = min_agreement
        # Not a part of the model: checkpoints do not hold it.
        self._judge = None if judge is None else MODELS.build(judge)
        self.name = name
        self._weights: Dict[str, Tensor] = {}

    def check_model(self, model: 'SemFlowModel') -> None:
        """See :meth:`TrainingLoss.check_model`; and what may be distilled."""
        super().check_model(model)
        if not isinstance(model.process, RectifiedFlow) or model.process.num_inputs > 1:
            raise ValueError('ReflowLoss distils a RectifiedFlow, but the process is '
                             f'a {type(model.process).__name__}')
        for wrapper in model.wrappers:
            if hasattr(wrapper, 'training_condition'):
                raise ValueError(
                    'ReflowLoss draws without a condition, but the wrapper '
                    f'{type(wrapper).__name__} gives one: leave one of them out')

    def forward(self, model: 'SemFlowModel',
                step: TrainingStep) -> Dict[str, Tensor]:
        """See :meth:`TrainingLoss.forward`."""
        count = max(1, round(self.last_fraction * len(step.z1)))
        z1, z0, kept = self.draw(model, step.z1[-count:], step.label_maps[-count:])
        t = torch.rand(count, device=z1.device)
        t[-max(1, round(self.end_fraction * count)):] = 1.
        point = RectifiedFlowPath().sample(z0, z1, t)
        error = (model.velocity(point.zt, t, None) - point.velocity).square()
        loss = (kept * error.mean((1, 2, 3))).sum() / kept.sum().clamp(min=1)
        return {
            f'loss_{self.name}': self.weight * loss,
            f'{self.name}_kept': kept.mean()
        }

    @torch.no_grad()
    def draw(self, model: 'SemFlowModel', z1: Tensor, label_maps: Tensor) -> tuple:
        """Let the teacher draw pictures for masks.

        Args:
            model (SemFlowModel): The model in training.
            z1 (Tensor): Mask latents without noise, shape (B, C, h, w).
            label_maps (Tensor): Their labels, int64, shape (B, H, W).

        Returns:
            tuple[Tensor, Tensor, Tensor]: Mask latents with their noise, the
            pictures' latents, both (B, C, h, w), and 1 for pairs whose labels
            are found again, else 0, shape (B, ).
        """
        states = model.process.solve(
            self._teacher_of(model), z1,
            model.process.times(self.num_steps, 1., 0.).to(z1.device), 'euler',
            return_trajectory=True)
        z0 = states[-1]
        kept = torch.ones(len(z0), device=z0.device)
        if self.min_agreement:
            labels = self._label(model, z0)
            valid = label_maps != model.codec.ignore_index
            agreed = (labels == label_maps) & valid
            share = agreed.sum((1, 2)) / valid.sum((1, 2)).clamp(min=1)
            kept = (share >= self.min_agreement).to(z0.dtype)
        return states[0], z0, kept

    def _label(self, model: 'SemFlowModel', z0: Tensor) -> Tensor:
        """Find the labels (B, H, W) of pictures by their latents."""
        if self._judge is not None:
            pixels = to_uint8(model.autoencoder.decode(z0))
            return self._judge(pixels, model.codec.num_classes)
        found = model.velocity(z0, torch.zeros(len(z0), device=z0.device), None) + z0
        return model.latents_to_logits(found, z0).argmax(1)

    def _teacher_of(self, model: 'SemFlowModel') -> Network:
        """Give the velocity by the teacher's weights, read by the first call."""
        if not self._weights:
            # Of mmengine, which what is exported does without.
            from mmseg_semflow.safe_loading import load_from_anywhere, weights_in
            try:
                loaded = weights_in(load_from_anywhere(self.teacher), self.teacher)
            except FileNotFoundError as error:
                raise FileNotFoundError(f'teacher of ReflowLoss: {error}') from error
            try:
                model.check_weights(loaded, PREFIX)
            except ValueError as error:
                raise ValueError(
                    f'teacher of ReflowLoss, {self.teacher}, must be a checkpoint of '
                    f'the model in training, but: {error}') from error
            own = model.network.state_dict()
            # On the device, in the precision and the layout of the network.
            self._weights = {
                key: own[key].detach().clone().copy_(value)
                for key, value in weights_of(loaded, 'network').items()
            }

        def network(*args: Any, **kwargs: Any) -> Tensor:
            return functional_call(model.network, self._weights, args, kwargs)

        return model.wrapped(network)
