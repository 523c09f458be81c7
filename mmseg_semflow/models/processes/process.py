"""The contract of all processes."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Dict, Optional, Tuple

from torch import Tensor, nn

from mmseg_semflow.flow import (
    Generators,
    Network,
    StepCallback,
    check_num_steps,
    check_solver,
    uniform_times,
)

DIRECTIONS = ('image_to_mask', 'mask_to_image')


@dataclass
class TrainingPoint:
    """What a network is trained on.

    Attributes:
        t (Tensor): Flow time, float32 in [0, 1], shape (B, ).
        state (Tensor): What the network sees, shape (B, C', h, w).
        target (Tensor): What it shall return, shape (B, D', h, w).
    """

    t: Tensor
    state: Tensor
    target: Tensor


class Process(nn.Module):
    """A way from image latents to mask latents, or back, or both.

    It samples training points, how their time is distributed included, and solves
    from one end to the other. Time runs from 0 at the image to 1 at the mask.

    Attributes:
        directions (Tuple[str, ...]): Which of ``'image_to_mask'`` and
            ``'mask_to_image'`` it serves.
        stochastic (Tuple[str, ...]): The directions in which solving samples
            noise, besides the perturbation of a pseudo mask.
        target (str): What the network predicts, for what wraps it.
        num_inputs (int): Number of latents that the network sees, stacked as
            channels.
        outputs (Tuple[str, ...]): Names of the latents that it returns,
            stacked as channels.
        default_solver (str): What solves where nothing else is asked for.
        trained_with (Dict[str, str]): Buffers that a checkpoint must have
            with the same values, and what they say in its words.
    """

    directions: Tuple[str, ...] = DIRECTIONS
    stochastic: Tuple[str, ...] = ()
    target = 'velocity'
    num_inputs = 1
    outputs: Tuple[str, ...] = ('flow', )
    default_solver = 'euler'
    trained_with: Dict[str, str] = {}

    @abstractmethod
    def sample(self, z0: Tensor, z1: Tensor) -> TrainingPoint:
        """Sample training points.

        Args:
            z0 (Tensor): Image latents, shape (B, C, h, w).
            z1 (Tensor): Mask latents of the same shape.

        Returns:
            TrainingPoint: One for each pair.
        """

    @abstractmethod
    def estimate(self, point: TrainingPoint, prediction: Tensor,
                 end: str) -> Tensor:
        """Estimate one end from a prediction: where a single step leads.

        Args:
            point (TrainingPoint): Where the network was asked.
            prediction (Tensor): What it returned, shape (B, D', h, w).
            end (str): ``'image'`` or ``'mask'``.

        Returns:
            Tensor: Latents of that end, shape (B, C, h, w).
        """

    @abstractmethod
    def solve(self,
              network: Network,
              z: Tensor,
              times: Tensor,
              solver: str,
              return_trajectory: bool = False,
              generators: Generators = None,
              callback: Optional[StepCallback] = None) -> Tensor:
        """Move latents from one end to the other.

        Args:
            network (Callable): Maps a state (B, C', h, w) and flow times
                (B, ) to a prediction (B, D', h, w).
            z (Tensor): Latents at the first time, shape (B, C, h, w).
            times (Tensor): Flow times, from 0 to 1 or back, shape (N + 1, ).
            solver (str): Name of the solver.
            return_trajectory (bool): Whether to return all states. Defaults
                to False.
            generators (Sequence[torch.Generator], optional): One per sample,
                on the CPU. Defaults to None, torch's global one.
            callback (Callable, optional): Called with the flow time, a
                scalar, and the state after every step; what it returns takes
                the place of the state, unless it is None. Defaults to None.

        Returns:
            Tensor: Latents at the last time, shape (B, C, h, w), or, with
            ``return_trajectory``, at all, shape (N + 1, B, C, h, w).
        """

    def start_of_synthesis(self,
                           z1: Tensor,
                           generators: Generators = None) -> Tensor:
        """Make the state at which the way to the image starts.

        Args:
            z1 (Tensor): Mask latents, shape (B, C, h, w).
            generators (Sequence[torch.Generator], optional): One per sample,
                on the CPU. Defaults to None, torch's global one.

        Returns:
            Tensor: The mask latents, with the noise that the process puts on
            them, if it does; the same shape.
        """
        return z1

    def times(self, num_steps: int, start: float, end: float) -> Tensor:
        """Make the solver's grid, by default an equidistant one.

        Args:
            num_steps (int): Number of steps N, at least 1.
            start (float): First flow time, 0 or 1.
            end (float): Last flow time, the other one.

        Returns:
            Tensor: float32 times, strictly monotonic, shape (N + 1, ).
        """
        return uniform_times(num_steps, start, end)

    def has_fixed_steps(self, solver: str) -> bool:
        """Tell whether the steps of a sample depend on it alone."""
        return True

    def check_network(self,
                      network: nn.Module,
                      latent_channels: int,
                      num_predictions: int = 1) -> None:
        """Raise a ValueError if a network does not fit.

        Args:
            network (nn.Module): The network.
            latent_channels (int): Number of channels of a latent.
            num_predictions (int): How many latents wrappers make one output of.
                Defaults to 1.
        """
        wanted = dict(
            in_channels=self.num_inputs,
            out_channels=num_predictions * len(self.outputs))
        for name, count in wanted.items():
            found = getattr(network, name)
            if found != count * latent_channels:
                raise ValueError(
                    f'the autoencoder makes latents of {latent_channels} '
                    f'channels and {type(self).__name__} takes {count} of them: '
                    f'unet.{name} of the network must be '
                    f'{count * latent_channels}, but got {found}')

    def check_wrapper(self, wrapper: nn.Module) -> None:
        """Raise a ValueError if a wrapper of networks is for other targets."""
        targets: Any = getattr(wrapper, 'targets', None)
        if targets is not None and self.target not in targets:
            raise ValueError(
                f'{type(wrapper).__name__} is derived for networks that predict '
                f'{" or ".join(targets)}, but that of {type(self).__name__} '
                f'predicts {self.target}: leave it out of wrappers')

    def check_sampling(self, num_steps: int, solver: str) -> None:
        """Raise a ValueError if it cannot be solved like that."""
        check_num_steps(num_steps)
        check_solver(solver)

    def check_direction(self, direction: str, user: str) -> None:
        """Raise a ValueError if it does not serve a direction."""
        if direction not in self.directions:
            raise ValueError(
                f'this {type(self).__name__} learns {self.directions[0]} '
                f'alone, but {user} asks for {direction}')
