"""Noise schedules and samplers of diffusers."""

import inspect
from typing import (
    TYPE_CHECKING,
    Callable,
    Iterator,
    Optional,
    Sequence,
    Set,
    Tuple,
    Union,
)

import torch
from torch import Tensor

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

DDIM_AND_DDPM = ('DDIMScheduler', 'DDPMScheduler', 'DDIMParallelScheduler',
                 'DDPMParallelScheduler')
_GIVEN = {'self', 'model_output', 'timestep', 'sample'}


def build_scheduler(name: str, **settings) -> 'SchedulerMixin':
    """Build a scheduler of diffusers.

    Args:
        name (str): Its class, for example ``'DDIMScheduler'``.
        **settings: What it is built with; settings that this class does not
            know are left out, so that the schedulers of one model share one
            config.

    Returns:
        SchedulerMixin: The scheduler.

    Raises:
        ValueError: If diffusers has no such scheduler, or it does not remove
            the noise of a schedule of betas, or its steps need more than the
            network's prediction, such as RePaint's.
    """
    import diffusers
    scheduler = getattr(diffusers, str(name), None)
    if not (inspect.isclass(scheduler)
            and issubclass(scheduler, diffusers.SchedulerMixin)):
        raise ValueError(
            f'diffusers {diffusers.__version__} has no scheduler {name!r}, or '
            'it needs a package that is missing; there are for example '
            "'DDIMScheduler' and 'DDPMScheduler'")
    known = inspect.signature(scheduler.__init__).parameters
    if ('beta_schedule' not in known or 'Inverse' in name
            or _needed(scheduler.step) - _GIVEN):
        raise ValueError(
            f'{name!r} does not remove the noise of a schedule of betas by the '
            "network's prediction alone, as for example 'DDIMScheduler' and "
            "'DDPMScheduler' do")
    return scheduler(**{k: v for k, v in settings.items() if k in known})


def _needed(function: Callable) -> Set[str]:
    return {
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is parameter.empty
    }


def steps_of(scheduler: 'SchedulerMixin', num_steps: int,
             device: Union[torch.device, str]) -> Iterator[Tuple[Tensor, Tensor]]:
    """Set a scheduler up for a number of steps and walk along them.

    Args:
        scheduler (SchedulerMixin): The scheduler.
        num_steps (int): Number of network calls N.
        device (torch.device | str): Device of the timesteps.

    Yields:
        Tuple[Tensor, Tensor]: A timestep and the one that it leads to, -1 at
        the end, scalars.

    Raises:
        ValueError: If this scheduler takes another number of calls.
    """
    scheduler.set_timesteps(num_steps, device=device)
    timesteps = scheduler.timesteps
    if type(scheduler).__name__ in DDIM_AND_DDPM:
        # Rounding adds -1 behind the trailing timesteps of some numbers, 61
        # for example.
        scheduler.timesteps = timesteps = timesteps[timesteps >= 0]
    if len(timesteps) != num_steps:
        raise ValueError(
            f'{type(scheduler).__name__} takes {len(timesteps)} network calls '
            f'for num_steps={num_steps}: it must take one per step')
    ends = torch.cat([timesteps[1:], timesteps.new_tensor([-1])])
    yield from zip(timesteps, ends, strict=True)


def denoise(scheduler: 'SchedulerMixin', predicted: Tensor, timestep: Tensor,
            next_timestep: Tensor, sample: Tensor,
            generators: Optional[Sequence[torch.Generator]]) -> Tensor:
    """Take one step of a scheduler.

    Args:
        scheduler (SchedulerMixin): With its timesteps set.
        predicted (Tensor): The network's prediction, shape (B, C, h, w).
        timestep (Tensor): The timestep at hand, a scalar.
        next_timestep (Tensor): The one that it leads to, a scalar.
        sample (Tensor): The noisy latent there, shape (B, C, h, w).
        generators (Sequence[torch.Generator], optional): One per sample.

    Returns:
        Tensor: The latent at the next timestep, shape (B, C, h, w).
    """
    if type(scheduler).__name__ in DDIM_AND_DDPM:
        # They go T // N timesteps at once, which is not to the next one
        # unless N divides T (diffusers issue 9261).
        scheduler.num_inference_steps = 1
        scheduler.register_to_config(
            num_train_timesteps=int(timestep) - int(next_timestep))
    noise = {}
    if 'generator' in inspect.signature(scheduler.step).parameters:
        noise['generator'] = generators and list(generators)
    return scheduler.step(
        predicted, timestep, sample, return_dict=False, **noise)[0]
