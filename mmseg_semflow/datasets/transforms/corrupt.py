"""Corrupted pictures, to test what a segmentor has not seen."""

import zlib
from pathlib import Path
from typing import Dict

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS

from mmseg_semflow.extras import MissingExtraError

from ..seeded import CORRUPTION, seeded_generators

# Of imagecorruptions 1.1.2; its glass_blur and gaussian_blur call scikit-image by
# an argument that is gone, and what its impulse_noise draws cannot be seeded.
CORRUPTIONS = ('gaussian_noise', 'shot_noise', 'speckle_noise', 'defocus_blur',
               'motion_blur', 'zoom_blur', 'snow', 'frost', 'fog', 'brightness',
               'contrast', 'saturate', 'elastic_transform', 'pixelate',
               'jpeg_compression', 'spatter')
DARKNESS = 'darkness'


@TRANSFORMS.register_module()
class Corrupt(BaseTransform):
    """Corrupt a picture as ImageNet-C and Cityscapes-C do.

    The corruptions of Hendrycks and Dietterich (ICLR 2019) by the package
    ``imagecorruptions`` (Michaelis et al., 2019), and ``'darkness'``, which takes
    from the value of HSV what their ``'brightness'`` adds: 0.1 to 0.5. What is random
    depends on the name of the file alone, so all that are tested see the same
    pictures.

    Required keys: ``img`` (BGR, uint8, shape (H, W, 3)) and ``img_path``. Modified
    key: ``img``.

    Args:
        corruption (str): One of :data:`CORRUPTIONS`, or ``'darkness'``.
        severity (int): 1 to 5.

    Raises:
        MissingExtraError: If imagecorruptions cannot be imported.
        ValueError: If an argument breaks its rule.
    """

    def __init__(self, corruption: str, severity: int) -> None:
        known = *CORRUPTIONS, DARKNESS
        if corruption not in known:
            raise ValueError(
                f'corruption must be of {", ".join(known)}, but got {corruption!r}')
        if severity not in range(1, 6):
            raise ValueError(f'severity must be of 1 to 5, but got {severity!r}')
        self.corruption, self.severity = corruption, severity
        if corruption != DARKNESS:
            self._corrupt = _imagecorruptions().corrupt

    def transform(self, results: Dict) -> Dict:
        """Corrupt ``img``."""
        name = Path(results['img_path']).name.encode()
        rgb = np.ascontiguousarray(results['img'][..., ::-1])
        if self.corruption == DARKNESS:
            rgb = darken(rgb, self.severity / 10)
        else:
            with seeded_generators(CORRUPTION, zlib.crc32(name)):
                rgb = self._corrupt(
                    rgb,
                    corruption_name=self.corruption,
                    severity=self.severity)
        results['img'] = np.ascontiguousarray(rgb[..., ::-1].astype(np.uint8))
        return results


def darken(image: np.ndarray, amount: float) -> np.ndarray:
    """Lower the value of HSV, which is the largest channel of a pixel.

    Args:
        image (np.ndarray): uint8, shape (H, W, 3).
        amount (float): By how much, of a value in [0, 1].

    Returns:
        np.ndarray: uint8, of the same hues and saturations; black where the value
        would be below 0.
    """
    value = image.max(axis=-1, keepdims=True).astype(np.float64)
    lowered = np.maximum(value - 255 * amount, 0)
    return np.rint(image * (lowered / np.maximum(value, 1))).astype(np.uint8)


def _imagecorruptions():
    if not hasattr(np, 'float_'):
        # imagecorruptions 1.1.2 knows float64 by the name that numpy 2 removed.
        np.float_ = np.float64
    try:
        import imagecorruptions
    except ImportError as error:
        raise MissingExtraError('Corrupt', 'imagecorruptions', 'corruptions',
                                error) from error
    return imagecorruptions
