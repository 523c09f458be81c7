"""SemFlow as a generator of mmagic."""

from typing import Dict, List, Optional, Union

import torch
from mmagic.registry import MODELS
from mmagic.structures import DataSample
from mmengine.model import BaseModel
from torch import Tensor

from mmseg_semflow.synthesis import Synthesizer

from .mmagic_batches import evaluate_batch


@MODELS.register_module()
class SemFlowGenerator(BaseModel):
    """Synthesise images from masks by the reverse flow (SemFlow, Eq. 13).

    Serves every process that leads from mask to image. Its checkpoints and
    those of the segmentor are the same.

    Args:
        semflow (dict): Config of :class:`SemFlowModel`.
        data_preprocessor (dict, optional): Config of
            :class:`SemFlowGeneratorDataPreProcessor`. Defaults to None, one
            without arguments.
        test_cfg (dict, optional): Arguments of :class:`Synthesizer`. Defaults
            to None.
        init_cfg (dict, optional): Initialisation config. Defaults to None.

    Raises:
        ValueError: If ``test_cfg`` breaks a rule of :class:`Synthesizer`, the
            process does not lead to images, or images are padded with another
            label than the codec's void.
    """

    def __init__(self,
                 semflow: dict,
                 data_preprocessor: Optional[dict] = None,
                 test_cfg: Optional[dict] = None,
                 init_cfg: Optional[dict] = None) -> None:
        super().__init__(
            data_preprocessor or dict(type='SemFlowGeneratorDataPreProcessor'),
            init_cfg)
        self.semflow = MODELS.build(semflow)
        self.semflow.process.check_direction('mask_to_image',
                                             type(self).__name__)
        self.data_preprocessor.serve(self.semflow.codec)
        self.test_cfg = dict(test_cfg or {})
        self.synthesizer()

    def synthesizer(self) -> Synthesizer:
        """Make what synthesises the images as ``test_cfg`` says."""
        return Synthesizer(self.semflow, **self.test_cfg)

    def forward(
        self,
        inputs: Tensor,
        data_samples: Union[DataSample, list, None] = None,
        mode: str = 'tensor'
    ) -> Union[Dict[str, Tensor], List[DataSample], Tensor]:
        """Train or synthesise.

        Args:
            inputs (Tensor): Images in [-1, 1], RGB, shape (B, 3, H, W).
            data_samples (DataSample | list): For ``'loss'`` mmsegmentation's,
                with ``gt_sem_seg``; else one stacked ``DataSample`` with
                ``gt_img`` and ``gt_label_map``.
            mode (str): ``'loss'``, ``'predict'`` or ``'tensor'``. Defaults to
                ``'tensor'``.

        Returns:
            Dict[str, Tensor] | List[DataSample] | Tensor: The losses; or for
            each mask a ``DataSample`` with ``fake_img`` (3, H, W), BGR, uint8,
            ``output.pred_img``, the same, and the other results of
            :meth:`Synthesizer.evaluate`; or the fake images alone, uint8,
            BGR, shape (B, 3, H, W).

        Raises:
            ValueError: If the mode is unknown, or training samples were made
                by another codec.
        """
        if mode == 'loss':
            return self.semflow.loss_of_samples(inputs, data_samples)
        if mode == 'predict':
            return self.predict(data_samples)
        if mode == 'tensor':
            return torch.stack([s.fake_img for s in self.predict(data_samples)])
        raise ValueError("mode must be 'loss', 'predict' or 'tensor', but got "
                         f'{mode!r}')

    def predict(self, data_samples: DataSample) -> List[DataSample]:
        """Synthesise an image, or several, for every mask of a batch."""
        return evaluate_batch(self.synthesizer(), data_samples)
