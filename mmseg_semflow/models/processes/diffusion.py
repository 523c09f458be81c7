"""DSM: diffusion-based segmentation, the paper's baseline."""

from typing import Any, Optional

import torch
from torch import Tensor, nn

from mmseg_semflow.arguments import checked
from mmseg_semflow.flow import (
    Generators,
    Network,
    StepCallback,
    check_num_steps,
    normal_like,
)
from mmseg_semflow.networks import build_scheduler, denoise, steps_of
from mmseg_semflow.registry import MODELS

from .process import Process, TrainingPoint

# The noise of Stable Diffusion 1.5. Latents are not bounded; sampling starts
# where there is the most noise, however few the steps, and ends without any.
SD15_SCHEDULE = dict(
    beta_schedule='scaled_linear',
    beta_start=0.00085,
    beta_end=0.012,
    clip_sample=False,
    set_alpha_to_one=True,
    timestep_spacing='trailing')

PREDICTIONS = ('epsilon', 'sample', 'v_prediction')


@MODELS.register_module()
@checked
class Diffusion(Process):
    r"""Diffusion from noise to the mask, given the image (DSM).

    .. math::
        L = E_{\tau, \epsilon} |\epsilon_\theta(x_\tau, z_0, \tau)
        - \epsilon|^2, \quad x_\tau = \sqrt{\alpha_\tau} z_1 +
        \sqrt{1 - \alpha_\tau} \epsilon

    SemFlow (Wang et al., NeurIPS 2024), Eq. 1 to 6 and Sec. 4.1: the network
    of SemFlow with twice the input channels, for the noisy mask latent and
    the image latent. A solver is the name of a scheduler of diffusers that
    removes the noise of betas by one call per step, such as
    ``'DDIMScheduler'`` and ``'DDPMScheduler'`` (Eq. 5). There is no way back
    to the image, and the mask depends on the noise.

    Args:
        prediction_type (str): What the network predicts: the noise,
            ``'epsilon'``, as in the paper; the mask latent, ``'sample'``; or
            ``'v_prediction'`` (Salimans and Ho, ICLR 2022). Defaults to
            ``'epsilon'``.
        num_train_timesteps (int): Number T of noise levels, the same as the
            network's; timestep tau is the flow time tau / T. Defaults to
            1000.
        scheduler (dict, optional): Settings of diffusers' schedulers, such as
            ``beta_schedule``, over ``SD15_SCHEDULE``. Defaults to None.

    Raises:
        ValueError: If ``prediction_type`` or a setting of the scheduler is
            unknown.
    """

    directions = ('image_to_mask', )
    stochastic = ('image_to_mask', )
    num_inputs = 2
    outputs = ('denoise', )
    default_solver = 'DDIMScheduler'
    trained_with = dict(
        alphas='noise schedule of other alphas',
        prediction=f'prediction_type of other number in {PREDICTIONS}')

    def __init__(self,
                 prediction_type: str = 'epsilon',
                 num_train_timesteps: int = 1000,
                 scheduler: Optional[dict] = None) -> None:
        super().__init__()
        if prediction_type not in PREDICTIONS:
            raise ValueError(f'prediction_type must be one of {PREDICTIONS}, '
                             f'but got {prediction_type!r}')
        known = {
            *SD15_SCHEDULE, 'steps_offset', 'rescale_betas_zero_snr',
            'clip_sample_range', 'variance_type'
        }
        for key in scheduler or ():
            if key not in known:
                raise ValueError(f'scheduler must have keys of {sorted(known)},'
                                 f' but got {key!r}')
        self.target = prediction_type
        self.num_train_timesteps = num_train_timesteps
        self.scheduler = {
            **SD15_SCHEDULE,
            **(scheduler or {}), 'prediction_type': prediction_type,
            'num_train_timesteps': num_train_timesteps
        }
        self.schedule = build_scheduler('DDPMScheduler', **self.scheduler)
        self.register_buffer('alphas', self.schedule.alphas_cumprod.clone())
        self.register_buffer('prediction',
                             torch.tensor(PREDICTIONS.index(prediction_type)))

    def check_network(self,
                      network: nn.Module,
                      latent_channels: int,
                      num_predictions: int = 1) -> None:
        """See :meth:`Process.check_network`; and the number of timesteps."""
        super().check_network(network, latent_channels, num_predictions)
        if network.num_train_timesteps != self.num_train_timesteps:
            raise ValueError(
                'num_train_timesteps must be that of the network, '
                f'{network.num_train_timesteps}, but got '
                f'{self.num_train_timesteps} in the process')

    def check_sampling(self, num_steps: int, solver: str) -> None:
        """See :meth:`Process.check_sampling`."""
        list(steps_of(self._sampler(num_steps, solver), num_steps, 'cpu'))

    def _sampler(self, num_steps: int, solver: str) -> Any:
        check_num_steps(num_steps)
        scheduler = build_scheduler(solver, **self.scheduler)
        if num_steps > self.num_train_timesteps:
            raise ValueError('num_steps must be at most num_train_timesteps='
                             f'{self.num_train_timesteps}, but got {num_steps}')
        return scheduler

    def sample(self, z0: Tensor, z1: Tensor) -> TrainingPoint:
        """See :meth:`Process.sample`; timesteps are uniform."""
        timestep = torch.randint(
            self.num_train_timesteps, (len(z1), ), device=z1.device)
        noise = torch.randn_like(z1)
        x = self.schedule.add_noise(z1, noise, timestep)
        target = dict(
            epsilon=noise,
            sample=z1,
            v_prediction=self.schedule.get_velocity(z1, noise, timestep))
        return TrainingPoint(
            t=timestep / self.num_train_timesteps,
            state=self._state(x, z0),
            target=target[self.target])

    @staticmethod
    def _state(x: Tensor, given: Tensor) -> Tensor:
        """Stack a noisy latent and the one that is given, (B, C', h, w)."""
        return torch.cat([x, given], 1)

    def estimate(self, point: TrainingPoint, prediction: Tensor,
                 end: str) -> Tensor:
        """See :meth:`Process.estimate`; of what is diffused alone."""
        self.check_direction(
            'image_to_mask' if end == 'mask' else 'mask_to_image', 'estimate')
        # The noisy latent comes first.
        x = point.state[:, :prediction.shape[1]]
        timestep = (point.t * self.num_train_timesteps).round().long()
        alpha = self.alphas[timestep].view(-1, 1, 1, 1)
        if self.target == 'sample':
            return prediction
        if self.target == 'v_prediction':
            return alpha.sqrt() * x - (1 - alpha).sqrt() * prediction
        return (x - (1 - alpha).sqrt() * prediction) / alpha.sqrt()

    def solve(self,
              network: Network,
              z: Tensor,
              times: Tensor,
              solver: str,
              return_trajectory: bool = False,
              generators: Generators = None,
              callback: Optional[StepCallback] = None) -> Tensor:
        """Remove noise step by step; see :meth:`Process.solve`.

        The steps are those of the scheduler, as many as ``times`` has.
        """
        num_steps = len(times) - 1
        scheduler = self._sampler(num_steps, solver)
        # All at once: a step changes the scheduler.
        steps = list(steps_of(scheduler, num_steps, z.device))
        states = [scheduler.init_noise_sigma * normal_like(z, generators)]
        for (timestep, next_timestep), next_t in zip(
                steps, times[1:], strict=True):
            x = states[-1]
            state = self._state(scheduler.scale_model_input(x, timestep), z)
            t = timestep / self.num_train_timesteps
            x = denoise(scheduler, network(state, t.expand(len(x))), timestep,
                        next_timestep, x, generators)
            changed = callback and callback(next_t, x)
            states.append(x if changed is None else changed)
        return torch.stack(states) if return_trajectory else states[-1]


@MODELS.register_module()
class ImageDiffusion(Diffusion):
    r"""Diffusion from noise to the image, whatever the mask.

    .. math::
        L = E_{\tau, \epsilon} |\epsilon_\theta(x_\tau, \tau) - \epsilon|^2,
        \quad x_\tau = \sqrt{\alpha_\tau} z_0 + \sqrt{1 - \alpha_\tau} \epsilon

    The objective of Stable Diffusion itself, under the null prompt: it fits the UNet
    to the pictures of a domain and leaves it what it is, a denoiser, so that it and
    the original differ in the domain alone (DGInStyle, Jia et al., ECCV 2024). An
    adapter that is trained upon it can be moved onto the original. Synthesis draws
    pictures of the domain, to look at.

    Arguments are those of :class:`Diffusion`.
    """

    directions = ('mask_to_image', )
    stochastic = ('mask_to_image', )
    num_inputs = 1

    def sample(self, z0: Tensor, z1: Tensor) -> TrainingPoint:
        """See :meth:`Process.sample`; z1 is not used."""
        return super().sample(z1, z0)

    @staticmethod
    def _state(x: Tensor, given: Tensor) -> Tensor:
        return x
