"""The compared methods as segmentors; all but the model is SemFlow's."""

from mmseg.registry import MODELS

from mmseg_semflow.models.bbdm_model import BBDMModel
from mmseg_semflow.models.dsm_model import DSMModel
from mmseg_semflow.models.symmflow_model import SymmFlowModel

from .semflow import SemFlow


@MODELS.register_module()
class DSM(SemFlow):
    """Segment images by diffusion from noise, see :class:`DSMModel`.

    ``test_cfg.solver`` names a scheduler of diffusers, by default
    ``'DDIMScheduler'``; masks depend on ``test_cfg.seed``.
    """

    model_class = DSMModel


@MODELS.register_module()
class BBDM(SemFlow):
    """Segment images by a Brownian bridge, see :class:`BBDMModel`.

    ``test_cfg.solver`` is ``'bridge'``; masks depend on ``test_cfg.seed``.
    """

    model_class = BBDMModel


@MODELS.register_module()
class SymmFlow(SemFlow):
    """Segment images by a joint flow, see :class:`SymmFlowModel`.

    Masks depend on ``test_cfg.seed``.
    """

    model_class = SymmFlowModel
