"""The compared methods as generators; all but the model is SemFlow's."""

from mmagic.registry import MODELS

from mmseg_semflow.models.bbdm_model import BBDMModel
from mmseg_semflow.models.symmflow_model import SymmFlowModel

from .semflow_generator import SemFlowGenerator


@MODELS.register_module()
class BBDMGenerator(SemFlowGenerator):
    """Synthesise images by a Brownian bridge, see :class:`BBDMModel`."""

    model_class = BBDMModel


@MODELS.register_module()
class SymmFlowGenerator(SemFlowGenerator):
    """Synthesise images by a joint flow, see :class:`SymmFlowModel`."""

    model_class = SymmFlowModel
