"""SemFlow's own process: a rectified flow."""

from typing import Optional

from mmengine.registry import MODELS
from torch import Tensor

from mmseg_semflow.flow import (
    FIXED_STEP_SOLVERS,
    Generators,
    Network,
    RectifiedFlowPath,
    StepCallback,
    integrate,
)

from .process import Process, TrainingPoint


@MODELS.register_module()
class RectifiedFlow(Process):
    r"""The straight path between image and mask, in both directions.

    .. math::
        L = E_{t, (z_0, z_1)} |v_\theta(z_t, t) - (z_1 - z_0)|^2, \quad
        z_t = (1 - t) z_0 + t z_1

    SemFlow (Wang et al., NeurIPS 2024), Eq. 9 to 13.

    Args:
        time_sampling (str): Distribution of t in training, ``'uniform'`` or
            ``'logit_normal'``, see :class:`RectifiedFlowPath`. Defaults to
            ``'uniform'``, the paper.
        start_fraction (float): Part of a training batch that gets t = 0, see
            :class:`RectifiedFlowPath`. Defaults to 0, the paper.
    """

    def __init__(self,
                 time_sampling: str = 'uniform',
                 start_fraction: float = 0.) -> None:
        super().__init__()
        self.path = RectifiedFlowPath(time_sampling, start_fraction)

    def sample(self, z0: Tensor, z1: Tensor) -> TrainingPoint:
        """See :meth:`Process.sample`; the target is z1 - z0."""
        t = self.path.sample_time(len(z0), device=z0.device)
        point = self.path.sample(z0, z1, t)
        return TrainingPoint(t=t, state=point.zt, target=point.velocity)

    def estimate(self, point: TrainingPoint, prediction: Tensor,
                 end: str) -> Tensor:
        """See :meth:`Process.estimate`: one Euler step from t to the end."""
        rest = (float(end == 'mask') - point.t).view(-1, 1, 1, 1)
        return point.state + rest * prediction

    def has_fixed_steps(self, solver: str) -> bool:
        """See :meth:`Process.has_fixed_steps`."""
        return solver in FIXED_STEP_SOLVERS

    def solve(self,
              network: Network,
              z: Tensor,
              times: Tensor,
              solver: str,
              return_trajectory: bool = False,
              generators: Generators = None,
              callback: Optional[StepCallback] = None) -> Tensor:
        """See :meth:`Process.solve`; Eq. 11."""
        return integrate(network, z, times, solver, return_trajectory, callback)
