"""Large pictures whose large regions are those of a picture of training's size."""

from typing import Any, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from mmseg_semflow.flow import check_tiling
from mmseg_semflow.models import SemFlowModel
from mmseg_semflow.pixels import resize_labels

from .style import check_velocity
from .synthesizer import Request, Synthesizer

# DGInStyle's 20000 pixels of a picture of 1024 x 1024.
MIN_COMPONENT = 20000 / 1024**2


def large_components(label_map: np.ndarray, min_area: float) -> np.ndarray:
    """Find the pixels of large components.

    Args:
        label_map (np.ndarray): Labels, shape (H, W).
        min_area (float): Pixels that a component has at least, all of one label
            (void is one) and connected by their sides or corners.

    Returns:
        np.ndarray: bool, shape (H, W).
    """
    import cv2
    large = np.zeros(label_map.shape, bool)
    for label in np.unique(label_map):
        _, components, stats, _ = cv2.connectedComponentsWithStats(
            (label_map == label).astype(np.uint8), connectivity=8)
        chosen = stats[:, cv2.CC_STAT_AREA] >= min_area
        chosen[0] = False  # all pixels of other labels
        large |= chosen[components]
    return large


class MultiResolutionFusion(Synthesizer):
    r"""Synthesise large images in two passes (DGInStyle's latent fusion).

    Multi-resolution latent fusion (Jia et al., ECCV 2024) for a flow. Windows
    alone see too little of a large region to make it one thing, and a picture
    of the size of training is too coarse for small objects. Pass 1 synthesises
    at ``base_size``; its picture, enlarged to the size of the label map
    (bicubic) and encoded, is :math:`z_0`. Pass 2 solves on the large latents in
    windows of ``base_size``, from :math:`z_1`, the noise of the process
    included. After each of its steps, cells of large components lie on

    .. math:: z_t = (1 - t) z_0 + t z_1,

    so that only what is small is drawn anew, and fits what is large. A cell is
    of a large component where most of its pixels are. Label maps that fit into
    ``base_size`` take one pass, as without fusion; others are brought to it,
    whatever their aspect.

    Trajectories, and round trips through the pseudo mask, have no labels to
    fuse by: they are those of the windows alone.

    Args:
        semflow (SemFlowModel): The model.
        base_size (Tuple[int, int]): Height and width in pixels of pass 1 and of
            the windows of pass 2: those of the training.
        min_component (float): Area of a large component, at least, as a share
            of the pixels of the picture: 8-connected ones of one label. At 0 all
            are large, above 1 none is. Defaults to 20000 / 1024^2.
        tile_stride (Tuple[int, int], optional): Distance of the windows in
            pixels. Defaults to None, half of ``base_size``.
        **kwargs (Any): Further arguments of :class:`Synthesizer`, but no
            ``tile_size``.

    Raises:
        ValueError: If an argument breaks its rule, or the network of the
            process does not predict the velocity of a rectified flow.
    """

    def __init__(self,
                 semflow: SemFlowModel,
                 base_size: Tuple[int, int],
                 min_component: float = MIN_COMPONENT,
                 tile_stride: Optional[Tuple[int, int]] = None,
                 **kwargs: Any) -> None:
        tile_size = kwargs.pop('tile_size', None)
        if tile_size is not None:
            raise ValueError('the windows of a fusion have its base_size='
                             f'{base_size}: leave tile_size out, but got {tile_size}')
        check_velocity(semflow, type(self).__name__)
        check_tiling(
            base_size, base_size if tile_stride is None else tile_stride,
            ('base_size', 'tile_stride'), semflow.autoencoder.factor)
        if not min_component >= 0:
            raise ValueError(f'min_component must be >= 0, but got {min_component}')
        super().__init__(
            semflow, tile_size=base_size, tile_stride=tile_stride, **kwargs)
        self.base_size = tuple(base_size)
        self.min_component = min_component

    @property
    def settings(self) -> dict:
        """dict: See :attr:`Synthesizer.settings`."""
        return dict(
            super().settings,
            fusion=dict(
                base_size=list(self.base_size), min_component=self.min_component))

    @property
    def protocol(self) -> str:
        """str: See :attr:`ImageSampler.protocol`."""
        height, width = self.base_size
        return (f'{super().protocol}, fused with {height}x{width} above '
                f'{self.min_component:.3g}')

    def held_cells(self, label_map: Tensor) -> Tensor:
        """Tell which cells pass 1 decides.

        Args:
            label_map (Tensor): Labels, int64, shape (H, W).

        Returns:
            Tensor: bool, shape (1, h, w), on the device of the model.
        """
        factor = self.semflow.autoencoder.factor
        large = torch.from_numpy(
            large_components(label_map.cpu().numpy(),
                             self.min_component * label_map.numel()))
        height, width = large.shape
        # As the pixels are padded before they are encoded.
        large = nn.functional.pad(
            large[None, None].float(), (0, -width % factor, 0, -height % factor),
            mode='replicate')
        share = nn.functional.avg_pool2d(large, factor)[0]
        return (share > 0.5).to(self.semflow.device)

    def _synthesize_batch(self,
                          batch: Sequence[Request],
                          choices: Optional[Sequence[Any]] = None) -> Tensor:
        size = batch[0][0].shape
        if all(side <= base for side, base in zip(size, self.base_size, strict=True)):
            return super()._synthesize_batch(batch, choices)
        semflow = self.semflow
        numbers = [number for _, number in batch]
        masks = torch.cat([self.perturbed(*request) for request in batch])
        # The same for both passes.
        choices = choices or self._choices(batch)
        first = super()._synthesize_batch([
            (resize_labels(label_map, self.base_size), number)
            for label_map, number in batch
        ], choices)
        first = nn.functional.interpolate(
            first, size, mode='bicubic', antialias=True).clamp(-1, 1)
        with self._autocast():
            z0 = semflow.encode(first)
            z1 = semflow.process.start_of_synthesis(
                semflow.encode(masks),
                self._generators('mask_to_image', masks, numbers))
        # Small regions have the light of the large ones.
        condition = {}
        for wrapper in semflow.wrappers:
            if hasattr(wrapper, 'condition_of'):
                condition.update(wrapper.condition_of(z0))
        held = torch.stack([self.held_cells(label_map) for label_map, _ in batch])

        def hold(t: Tensor, state: Tensor) -> Tensor:
            return torch.where(held, (1 - t) * z0 + t * z1, state)

        return self._to_images(masks, batch, choices, hold, condition or None)
