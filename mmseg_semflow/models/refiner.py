"""A correction of the masks that the flow leads to."""

import torch
from torch import Tensor, nn

from mmseg_semflow.arguments import checked
from mmseg_semflow.flow import PseudoMaskCodec
from mmseg_semflow.registry import MODELS


@MODELS.register_module()
@checked
class LatentRefiner(nn.Module):
    r"""Correct a pseudo mask by what the latents of mask and image say.

    What a flow predicts where it is in doubt, a decoder that knows only clear
    colours can turn into anything. With the scores of the nearest anchor
    (:meth:`PseudoMaskCodec.logits`) of the decoded pixels x,

    .. math:: l = s \cdot logits(x) + R(z_1, z_0),

    with a small network R on both latents at the end of the flow; the last of
    its layers starts at zero, so that nothing is corrected before it is
    learned (:class:`RefinerLoss`). Not in the paper.

    Args:
        latent_channels (int): Number of channels of the latents.
        num_classes (int): Number of classes.
        detail (int): Labels that R tells of a cell along each side. Defaults
            to 4.
        channels (int): Its width. Defaults to 96.
        scale (float): Weight s of the anchors' scores. Defaults to 1.
    """

    def __init__(self,
                 latent_channels: int,
                 num_classes: int,
                 detail: int = 4,
                 channels: int = 96,
                 scale: float = 1.) -> None:
        super().__init__()
        self.latent_channels = latent_channels
        self.num_classes = num_classes
        self.detail = detail
        self.scale = scale
        self.layers = nn.Sequential(
            nn.Conv2d(2 * latent_channels, channels, 3, padding=1), nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1), nn.SiLU(),
            nn.Conv2d(channels, num_classes * detail**2, 1))
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.zeros_(self.layers[-1].bias)

    def scores(self, z1: Tensor, z0: Tensor) -> Tensor:
        """Score the classes: R.

        Args:
            z1 (Tensor): Latents of masks, shape (B, C, h, w).
            z0 (Tensor): Latents of images, the same shape.

        Returns:
            Tensor: Shape (B, num_classes, detail h, detail w).
        """
        found = self.layers(torch.cat([z1, z0], 1))
        return nn.functional.pixel_shuffle(found, self.detail)

    def forward(self, codec: PseudoMaskCodec, pixels: Tensor, z1: Tensor,
                z0: Tensor) -> Tensor:
        """Score the classes of a pseudo mask, corrected.

        Args:
            codec (PseudoMaskCodec): The model's codec.
            pixels (Tensor): Decoded pseudo masks, about [-1, 1], shape
                (B, 3, H, W).
            z1 (Tensor): Their latents, shape (B, C, h, w).
            z0 (Tensor): Latents of the images, the same shape.

        Returns:
            Tensor: Logits, shape (B, num_classes, H, W).
        """
        scores = nn.functional.interpolate(
            self.scores(z1, z0).float(),
            pixels.shape[-2:],
            mode='bilinear',
            align_corners=False)
        return self.scale * codec.logits(pixels) + scores


def check_reader(reader: nn.Module, autoencoder: nn.Module,
                 num_classes: int) -> None:
    """Raise a ValueError if what reads labels of latents does not fit.

    Args:
        reader (nn.Module): With ``latent_channels``, ``num_classes`` and
            ``detail``.
        autoencoder (nn.Module): The model's.
        num_classes (int): Number of classes of the model's codec.
    """
    name = type(reader).__name__
    for key, wanted in dict(
            latent_channels=autoencoder.latent_channels,
            num_classes=num_classes).items():
        if getattr(reader, key) != wanted:
            raise ValueError(f'{key} of {name} must be that of the model, {wanted}, '
                             f'but got {getattr(reader, key)}')
    factor = autoencoder.factor
    if not 0 < reader.detail <= factor or factor % reader.detail:
        raise ValueError(f"detail of {name} must be a divisor of the autoencoder's "
                         f'factor {factor}, but got {reader.detail}')
