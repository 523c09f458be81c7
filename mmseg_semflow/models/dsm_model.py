"""Diffusion-based segmentation, the paper's baseline."""

from typing import Any, Dict, Optional

import torch
from mmengine.registry import MODELS
from torch import Tensor

from mmseg_semflow.flow import Generators, check_num_steps, normal_like
from mmseg_semflow.networks import build_scheduler, denoise, steps_of

from .pair_model import Network, PairModel

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
class DSMModel(PairModel):
    r"""Diffusion from noise to the mask, given the image (DSM).

    .. math::
        L = E_{\tau, \epsilon} |\epsilon_\theta(x_\tau, z_0, \tau)
        - \epsilon|^2, \quad x_\tau = \sqrt{\alpha_\tau} z_1 +
        \sqrt{1 - \alpha_\tau} \epsilon

    SemFlow (Wang et al., NeurIPS 2024), Eq. 1 to 6 and Sec. 4.1: the network
    of SemFlow with twice the input channels, for the noisy mask latent and
    the image latent. DDPM and DDIM (Eq. 5) sample it, or another scheduler of
    diffusers that removes the noise of betas by one call a step. There is no
    way back to the image, and the mask depends on the noise.

    Args:
        velocity_net (dict): See :class:`PairModel`.
        autoencoder (dict): See :class:`PairModel`.
        codec (dict): See :class:`PairModel`.
        prediction_type (str): What the network predicts: the noise,
            ``'epsilon'``, as in the paper; the mask latent, ``'sample'``; or
            ``'v_prediction'`` (Salimans and Ho, ICLR 2022). Defaults to
            ``'epsilon'``.
        scheduler (dict, optional): Settings of diffusers' schedulers, such as
            ``beta_schedule``, over ``SD15_SCHEDULE``. Defaults to None.
        **kwargs: See :class:`PairModel`.

    Raises:
        ValueError: If the UNet does not take two latents, or
            ``prediction_type`` or a setting of the scheduler is unknown.
    """

    default_solver = 'DDIMScheduler'
    stochastic = True
    state_parts = (2, 1)
    directions = ('image_to_mask', )
    trained_with = {
        **PairModel.trained_with, 'alphas': 'noise schedule of other alphas',
        'prediction': f'prediction_type of other number in {PREDICTIONS}'
    }

    def __init__(self,
                 velocity_net: dict,
                 autoencoder: dict,
                 codec: dict,
                 prediction_type: str = 'epsilon',
                 scheduler: Optional[dict] = None,
                 **kwargs) -> None:
        super().__init__(velocity_net, autoencoder, codec, **kwargs)
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
        self.scheduler = {
            **SD15_SCHEDULE,
            **(scheduler or {}), 'prediction_type': prediction_type,
            'num_train_timesteps': self.velocity_net.num_train_timesteps
        }
        self.schedule = build_scheduler('DDPMScheduler', **self.scheduler)
        self.register_buffer('alphas', self.schedule.alphas_cumprod.clone())
        self.register_buffer('prediction',
                             torch.tensor(PREDICTIONS.index(prediction_type)))

    def check_sampling(self, num_steps: int, solver: str) -> None:
        """See :meth:`PairModel.check_sampling`."""
        list(steps_of(self._sampler(num_steps, solver), num_steps, 'cpu'))

    def _sampler(self, num_steps: int, solver: str) -> Any:
        check_num_steps(num_steps)
        scheduler = build_scheduler(solver, **self.scheduler)
        limit = self.velocity_net.num_train_timesteps
        if num_steps > limit:
            raise ValueError(f'num_steps must be at most num_train_timesteps='
                             f'{limit}, but got {num_steps}')
        return scheduler

    def loss_of_latents(self, z0: Tensor, z1: Tensor,
                        label_maps: Tensor) -> Dict[str, Tensor]:
        """See :meth:`PairModel.loss_of_latents`; ``loss_denoise``."""
        timestep = torch.randint(
            self.velocity_net.num_train_timesteps, (len(z1), ),
            device=z1.device)
        noise = torch.randn_like(z1)
        x = self.schedule.add_noise(z1, noise, timestep)
        target = dict(
            epsilon=noise,
            sample=z1,
            v_prediction=self.schedule.get_velocity(z1, noise, timestep))
        error = self._predict(self.velocity_net, x, z0, timestep) - target[
            self.schedule.config.prediction_type]
        return dict(loss_denoise=self._mean_error(error.square(), label_maps))

    def _predict(self, network: Network, x: Tensor, z0: Tensor,
                 timestep: Tensor) -> Tensor:
        t = timestep / self.velocity_net.num_train_timesteps
        return network(torch.cat([x, z0], 1), t.expand(len(x)))

    def solve(self, network: Network, z: Tensor, times: Tensor, solver: str,
              return_trajectory: bool, generators: Generators) -> Tensor:
        """Remove noise step by step; see :meth:`PairModel.solve`.

        The steps are those of the scheduler, as many as ``times`` has.
        """
        num_steps = len(times) - 1
        scheduler = self._sampler(num_steps, solver)
        steps = list(steps_of(scheduler, num_steps, z.device))
        x = scheduler.init_noise_sigma * normal_like(z, generators)
        states = [x]
        for timestep, next_timestep in steps:
            predicted = self._predict(
                network, scheduler.scale_model_input(x, timestep), z, timestep)
            x = denoise(scheduler, predicted, timestep, next_timestep, x,
                        generators)
            if return_trajectory:
                states.append(x)
        return torch.stack(states) if return_trajectory else x
