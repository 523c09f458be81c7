"""What a network predicts, in terms of what it is asked for."""

from typing import Tuple

import torch
from torch import Tensor, nn

from mmseg_semflow.arguments import checked
from mmseg_semflow.flow import Condition, Network
from mmseg_semflow.registry import MODELS


@MODELS.register_module()
@checked
class EndStdPreconditioning(nn.Module):
    r"""Scale input and output of a velocity network to unit variance.

    In the manner of Karras et al. (NeurIPS 2022, Sec. 5), carried over to the
    straight path between two latents,

    .. math::
        v_\theta(z_t, t) = \frac{t \sigma_1^2 - (1 - t) \sigma_0^2}
        {\sigma_t^2} z_t + \frac{\sigma_0 \sigma_1}{\sigma_t}
        u_\theta\left(\frac{z_t}{\sigma_t}, t\right), \quad
        \sigma_t^2 = (1 - t)^2 \sigma_0^2 + t^2 \sigma_1^2,

    so that for independent ends input and target of the network
    :math:`u_\theta` have unit variance, and it predicts the mask alone at
    t = 0 and the image alone at t = 1, where without it would have to copy
    :math:`z_t`. The objective stays Eq. 10.

    Args:
        end_std (Tuple[float, float]): Standard deviations
            :math:`\sigma_0, \sigma_1` of image and mask latents.

    Raises:
        ValueError: If ``end_std`` is not two positive numbers.
    """

    # The targets that it is derived for, see ``Process.target``.
    targets = ('velocity', )
    # In the state dict, so that a checkpoint knows how it was trained.
    buffer = 'end_std'

    def __init__(self, end_std: Tuple[float, float]) -> None:
        super().__init__()
        if len(end_std) != 2 or min(end_std) <= 0:
            raise ValueError(
                f'end_std must be two positive numbers, but got {end_std}')
        self.register_buffer(self.buffer, torch.tensor(end_std).float())

    def factors(self, s: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        """Compute what depends on t alone.

        Args:
            s (Tensor): Flow time in [0, 1].

        Returns:
            Tuple[Tensor, Tensor, Tensor]: The deviation of z_t, the part of z_t in
            the velocity, and the factor of what the network predicts.
        """
        ends = getattr(self, self.buffer)
        image, mask = (1 - s) * ends[0], s * ends[1]
        std = (image**2 + mask**2).sqrt()
        slope = (mask * ends[1] - image * ends[0]) / std**2
        return std, slope, ends.prod() / std

    def forward(self,
                network: Network,
                zt: Tensor,
                t: Tensor,
                condition: Condition = None) -> Tensor:
        """Predict the velocity.

        Args:
            network (Callable): Predicts u, see
                :class:`VelocityUNet`.
            zt (Tensor): Point on the path, shape (B, C, h, w).
            t (Tensor): Flow time, float32 in [0, 1], shape (B, ).
            condition (Dict[str, Tensor], optional): Passed on. Defaults to
                None.

        Returns:
            Tensor: dz/dt, shape (B, C, h, w).
        """
        std, slope, scale = self.factors(t.float().view(-1, 1, 1, 1))
        return slope * zt + scale * network(zt / std, t, condition)


@MODELS.register_module()
@checked
class MaskPreconditioning(EndStdPreconditioning):
    r"""Take away the mask alone, in place of both ends.

    .. math::
        v_\theta(z_t, t) = a_t z_t + c_t u_\theta\left(\frac{z_t}{\sigma_t}, t\right),
        \quad a_t = \frac{t \sigma_1^2}{\sigma_t^2}, \quad
        c_t^2 = (1 - t a_t)^2 \sigma_1^2 + (1 + (1 - t) a_t)^2 \sigma_0^2

    :math:`a_t z_t` is the best linear guess of :math:`z_1` by :math:`z_t`. At t = 1
    the network predicts the image alone, as with :class:`EndStdPreconditioning`, so
    that nothing is left of the mask and its noise in pictures; at t = 0 all of the
    velocity, as without either, which segments better. For independent ends its
    target has unit variance at all t. Not in the paper.

    Args:
        end_std (Tuple[float, float]): Standard deviations
            :math:`\sigma_0, \sigma_1` of image and mask latents.

    Raises:
        ValueError: If ``end_std`` is not two positive numbers.
    """

    # Another one, so that a checkpoint of one kind is refused by the other.
    buffer = 'end_std_of_masks'

    def factors(self, s: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        """See :meth:`EndStdPreconditioning.factors`."""
        image, mask = getattr(self, self.buffer)
        std = (((1 - s) * image)**2 + (s * mask)**2).sqrt()
        slope = s * (mask / std)**2
        of_mask, of_image = (1 - s * slope) * mask, (1 + (1 - s) * slope) * image
        return std, slope, (of_mask**2 + of_image**2).sqrt()


@MODELS.register_module()
@checked
class CleanEnds(nn.Module):
    r"""Let the network predict clean latents, and compose the velocity.

    Each end alone gives it, with a pole where it lies; so that there is none,

    .. math::
        v_\theta(z_t, t) = \frac{z_t - \hat z_0}{t} \text{ for } t \ge \tau,
        \quad \frac{\hat z_1 - z_t}{1 - t} \text{ for } t < \tau.

    A network finds clean data, which lie on a manifold, easier than velocities
    where its cells have many dimensions (Li and He, "Back to Basics",
    arXiv 2511.13720): a last step of synthesis from t >= tau ends at
    :math:`\hat z_0`, in which nothing is left of the noise on the mask latent.
    The objective stays Eq. 10. The network has twice the channels of the
    latents, first those of the image.

    Args:
        switch (float): Time tau in (0, 1), below which the mask is predicted;
            errors of the image are enlarged by up to 1 / tau. Defaults to 0.1.

    Raises:
        ValueError: If ``switch`` is not in (0, 1).
    """

    targets = ('velocity', )
    num_predictions = 2

    def __init__(self, switch: float = 0.1) -> None:
        super().__init__()
        if not 0 < switch < 1:
            raise ValueError(f'switch must be in (0, 1), but got {switch}')
        # In the state dict, so that a checkpoint knows how it was trained.
        self.register_buffer('switch', torch.tensor(float(switch)))

    def forward(self,
                network: Network,
                zt: Tensor,
                t: Tensor,
                condition: Condition = None) -> Tensor:
        """Predict the velocity.

        Args:
            network (Callable): Predicts z0 and z1, shape (B, 2 C, h, w).
            zt (Tensor): Point on the path, shape (B, C, h, w).
            t (Tensor): Flow time, float32 in [0, 1], shape (B, ).
            condition (Dict[str, Tensor], optional): Passed on. Defaults to
                None.

        Returns:
            Tensor: dz/dt, shape (B, C, h, w).
        """
        s = t.float().view(-1, 1, 1, 1)
        z0, z1 = network(zt, t, condition).chunk(2, 1)
        of_image = s >= self.switch
        return torch.where(of_image, zt - z0, z1 - zt) / torch.where(
            of_image, s, 1 - s)
