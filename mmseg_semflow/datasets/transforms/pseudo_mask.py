"""Transforms from labels to perturbed pseudo masks."""

from typing import Dict

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.structures import PixelData
from mmseg.datasets.transforms import PackSegInputs
from mmseg.registry import TRANSFORMS

from mmseg_semflow.flow import PseudoMaskCodec, check_labels, perturb


@TRANSFORMS.register_module()
class GeneratePseudoMask(BaseTransform):
    """Colour the labels as a pseudo mask (SemFlow, Eq. 7).

    Place it after every transform that resizes, crops or flips: labels are
    resized with nearest, so that no border blends into the colour of a third
    class.

    Required keys: ``gt_seg_map``, (H, W), uint8 or int64. Added keys:
    ``gt_pseudo_mask``, (H, W, 3), RGB levels, uint8, and ``codec``.

    Args:
        codec (dict): Arguments of :class:`PseudoMaskCodec`, the same as the
            model's.
    """

    def __init__(self, codec: dict) -> None:
        self.codec = PseudoMaskCodec(**codec)
        table = np.zeros((256, 1, 3), np.uint8)
        table[:self.codec.num_classes, 0] = self.codec.levels
        table[self.codec.ignore_index] = self.codec.void_color
        self._table = table

    def transform(self, results: Dict) -> Dict:
        """Add the pseudo mask.

        Args:
            results (dict): With ``gt_seg_map``.

        Returns:
            dict: With ``gt_pseudo_mask`` and ``codec`` added.

        Raises:
            ValueError: If a label is neither a class nor void.
        """
        # Flipped ones may be views, which torch does not take.
        label_map = np.ascontiguousarray(results['gt_seg_map'])
        check_labels(
            torch.from_numpy(label_map), self.codec.num_classes,
            self.codec.ignore_index, results.get('seg_map_path', 'gt_seg_map'))
        results['gt_pseudo_mask'] = cv2.applyColorMap(
            label_map.astype(np.uint8, copy=False), self._table)
        results['codec'] = self.codec.spec
        return results

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(codec={self.codec.spec})'


def _require_pseudo_mask(transform: BaseTransform, results: Dict) -> None:
    if 'gt_pseudo_mask' not in results:
        raise ValueError('GeneratePseudoMask must stand before '
                         f'{type(transform).__name__} in the pipeline')


@TRANSFORMS.register_module()
class PerturbPseudoMask(BaseTransform):
    """Add the finite perturbation to the pseudo mask (SemFlow, Eq. 14).

    Draws from torch's generator, which mmengine seeds in every worker.

    Required and modified key: ``gt_pseudo_mask``, (H, W, 3), which becomes
    float32. Required key: ``codec``, whose amplitude and grain it takes.
    """

    def transform(self, results: Dict) -> Dict:
        """Perturb the pseudo mask.

        Args:
            results (dict): With ``gt_pseudo_mask`` and ``codec``.

        Returns:
            dict: With ``gt_pseudo_mask`` perturbed.

        Raises:
            ValueError: If ``GeneratePseudoMask`` does not stand before.
        """
        _require_pseudo_mask(self, results)
        codec = results['codec']
        levels = torch.from_numpy(results['gt_pseudo_mask']).movedim(-1, 0)
        moved = perturb(levels, codec['amplitude'], grain=codec.get('grain', 1))
        results['gt_pseudo_mask'] = moved.movedim(0, -1).numpy()
        return results

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}()'


@TRANSFORMS.register_module()
class PackSemFlowInputs(PackSegInputs):
    """Pack like mmseg's ``PackSegInputs``, and the pseudo mask as well.

    Adds ``gt_pseudo_mask`` (3, H, W) and the meta key ``codec`` to the data
    sample.

    Args:
        meta_keys (Sequence[str]): Meta keys to pack. Defaults to those of
            ``PackSegInputs``.
    """

    def transform(self, results: Dict) -> Dict:
        """Pack the results.

        Args:
            results (dict): With ``gt_pseudo_mask`` and ``codec``.

        Returns:
            dict: ``inputs`` and ``data_samples``.

        Raises:
            ValueError: If ``GeneratePseudoMask`` or ``PerturbPseudoMask``
                does not stand before.
        """
        _require_pseudo_mask(self, results)
        amplitude = results['codec']['amplitude']
        if amplitude > 0 and results['gt_pseudo_mask'].dtype == np.uint8:
            raise ValueError(
                f'the codec has amplitude={amplitude}, but the pseudo mask is '
                'not perturbed: PerturbPseudoMask must stand before '
                'PackSemFlowInputs')
        packed = super().transform(results)
        pseudo_mask = torch.from_numpy(
            results['gt_pseudo_mask'].transpose(2, 0, 1)).contiguous()
        packed['data_samples'].set_data(
            dict(gt_pseudo_mask=PixelData(data=pseudo_mask)))
        packed['data_samples'].set_metainfo(dict(codec=results['codec']))
        return packed
