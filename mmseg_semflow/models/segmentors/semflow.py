"""SemFlow as a segmentor of mmsegmentation."""

import copy
from typing import Dict, List, Optional

import torch
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.models import BaseSegmentor
from mmseg.models.utils import resize
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor

from ..prediction import (
    check_prediction,
    decode_map,
    predict_map,
    prediction_settings,
)


class PseudoMaskLogits(PixelData):
    """The ``seg_logits`` of a prediction, computed when they are read.

    Holds the 3-channel ``pseudo_mask``, the ``codec`` and the ``temperature``;
    ``data``, of shape (num_classes, H, W), takes memory only where something asks
    for it, as test-time augmentation does. A metric, which gets the result as a
    dict, finds these three in it.
    """

    @property
    def data(self) -> Tensor:
        """Tensor: Logits of all classes, shape (num_classes, H, W)."""
        pseudo_mask = torch.as_tensor(self.pseudo_mask)
        return self.codec.logits(pseudo_mask[None])[0] / self.temperature


@MODELS.register_module()
class SemFlow(BaseSegmentor):
    """Segment images by the forward flow (SemFlow, Eq. 12).

    Serves every process that leads from image to mask, and trains any other.

    Args:
        semflow (dict): Config of :class:`SemFlowModel`.
        data_preprocessor (dict, optional): Config of
            :class:`SemFlowDataPreProcessor`. Defaults to None, one without
            arguments.
        train_cfg (dict, optional): Not used; mmseg's tools pass it. Defaults
            to None.
        test_cfg (dict, optional): ``num_steps`` (int) and ``solver``
            of the process, for SemFlow's ``'euler'``, ``'heun'``, ``'rk4'``
            or ``'dopri5'``;
            ``mode``, ``'whole'`` or ``'slide'``, the latter with
            ``crop_size`` and ``stride`` (height, width), or ``'none'`` to train
            a process that leads to no masks; ``dtype``, None or
            ``'bfloat16'`` for autocast; ``seed`` of a process that samples
            noise, which SemFlow's does not; ``temperature`` by which logits are
            divided, so that their softmax is a calibrated probability
            (``tools/calibrate.py`` finds it). Defaults to None, which is
            ``dict(num_steps=25, solver='euler', mode='whole', dtype=None,
            seed=0, temperature=1)``.
        pretrained (str, optional): Not used; mmseg's tools pass it. Weights
            come from the parts of ``semflow``. Defaults to None.
        init_cfg (dict, optional): Initialisation config. Defaults to None.

    Raises:
        ValueError: If ``test_cfg`` breaks one of these rules, the process
            does not lead to masks, or images are padded with another label
            than the codec's void.
    """

    align_corners = False

    def __init__(self,
                 semflow: dict,
                 data_preprocessor: Optional[dict] = None,
                 train_cfg: Optional[dict] = None,
                 test_cfg: Optional[dict] = None,
                 pretrained: Optional[str] = None,
                 init_cfg: Optional[dict] = None) -> None:
        super().__init__(
            data_preprocessor or dict(type='SemFlowDataPreProcessor'), init_cfg)
        if pretrained is not None:
            raise ValueError(
                f'pretrained={pretrained!r} is not used: set sd_folder or '
                'unet_weights of the network and sd_folder of the '
                'autoencoder')
        self.semflow = MODELS.build(semflow)
        if (test_cfg or {}).get('mode') != 'none':
            self.semflow.process.check_direction('image_to_mask',
                                                 type(self).__name__)
        self.data_preprocessor.serve(self.semflow.codec)
        self.train_cfg = train_cfg
        self.test_cfg = ConfigDict(prediction_settings(self.semflow, test_cfg))
        self._checked_cfg: Optional[dict] = None
        self._check_test_cfg()

    def _check_test_cfg(self) -> None:
        cfg = self.test_cfg
        # Callers change it as they like, but seldom.
        if cfg == self._checked_cfg:
            return
        check_prediction(self.semflow, cfg)
        self._checked_cfg = copy.deepcopy(dict(cfg))

    @property
    def out_channels(self) -> int:
        """int: Number of classes, for mmseg's tools."""
        return self.semflow.codec.num_classes

    def extract_feat(self, inputs: Tensor) -> Tensor:
        """Encode images (B, 3, H, W) to latents z0 (B, C, h, w)."""
        return self.semflow.autoencoder.encode(inputs).mean

    def encode_decode(self,
                      inputs: Tensor,
                      batch_img_metas: Optional[List[dict]] = None) -> Tensor:
        """Compute the logits of all classes.

        Args:
            inputs (Tensor): Images in [-1, 1], shape (B, 3, H, W).
            batch_img_metas (List[dict], optional): Not used. Defaults to
                None.

        Returns:
            Tensor: Logits, shape (B, num_classes, H, W).
        """
        maps = self.predict_map(inputs)
        logits = maps if self._scored else self.semflow.codec.logits(maps)
        return logits / self.test_cfg['temperature']

    def loss(self, inputs: Tensor,
             data_samples: List[SegDataSample]) -> Dict[str, Tensor]:
        """Compute the training losses.

        Args:
            inputs (Tensor): Images in [-1, 1], shape (B, 3, H, W).
            data_samples (List[SegDataSample]): With ``gt_sem_seg``.

        Returns:
            Dict[str, Tensor]: See :meth:`SemFlowModel.loss_of_samples`.
        """
        return self.semflow.loss_of_samples(inputs, data_samples)

    @property
    def _scored(self) -> bool:
        # A refiner corrects the scores of classes, which no colour has.
        return self.semflow.refiner is not None

    def predict_map(self, inputs: Tensor) -> Tensor:
        """Transport images to masks as ``test_cfg`` says.

        Args:
            inputs (Tensor): Images in [-1, 1], shape (B, 3, H, W).

        Returns:
            Tensor: Pseudo masks, about [-1, 1], shape (B, 3, H, W); where the
            model has a refiner logits, shape (B, num_classes, H, W).
        """
        self._check_test_cfg()
        return predict_map(self.semflow, inputs, self.test_cfg)

    def predict(
        self,
        inputs: Tensor,
        data_samples: Optional[List[SegDataSample]] = None
    ) -> List[SegDataSample]:
        """Predict label maps at the original size of the images.

        The 3-channel pseudo mask is resized and classified after, which
        gives the argmax of resized logits at 3 / num_classes of the memory.

        Args:
            inputs (Tensor): Images in [-1, 1], shape (B, 3, H, W).
            data_samples (List[SegDataSample], optional): Their meta
                information. Defaults to None.

        Returns:
            List[SegDataSample]: With ``pred_sem_seg`` (1, H, W), int64, and
            ``seg_logits``, which are computed when they are read.
        """
        maps = self.predict_map(inputs)
        temperature = self.test_cfg['temperature']
        if data_samples is None:
            data_samples = [SegDataSample() for _ in inputs]
        for found, sample in zip(maps, data_samples, strict=True):
            found = self._restore(found[None], sample.metainfo)
            labels = decode_map(self.semflow, found)
            if self._scored:
                logits = PixelData(data=found[0] / temperature)
            else:
                logits = PseudoMaskLogits(pseudo_mask=found[0])
                for name, value in dict(
                        codec=self.semflow.codec, temperature=temperature).items():
                    logits.set_field(value, name, field_type='metainfo')
            sample.set_data(
                dict(seg_logits=logits, pred_sem_seg=PixelData(data=labels)))
        return data_samples

    def _restore(self, pseudo_mask: Tensor, img_meta: dict) -> Tensor:
        """Undo padding, flip and resizing of the test pipeline."""
        height, width = pseudo_mask.shape[-2:]
        left, right, top, bottom = img_meta.get(
            'img_padding_size', img_meta.get('padding_size', [0] * 4))
        pseudo_mask = pseudo_mask[..., top:height - bottom,
                                  left:width - right]
        if img_meta.get('flip'):
            dims = dict(
                horizontal=(3, ), vertical=(2, ),
                diagonal=(2, 3))[img_meta['flip_direction']]
            pseudo_mask = pseudo_mask.flip(dims)
        if 'ori_shape' not in img_meta:
            return pseudo_mask
        return resize(
            pseudo_mask,
            size=img_meta['ori_shape'][:2],
            mode='bilinear',
            align_corners=self.align_corners,
            warning=False)

    def _forward(self,
                 inputs: Tensor,
                 data_samples: Optional[List[SegDataSample]] = None) -> Tensor:
        """Compute logits (B, num_classes, H, W) of images (B, 3, H, W)."""
        return self.encode_decode(inputs)
