"""The adapter to mmagic, which has to be installed for it."""

from mmseg_semflow.compat.mmagic import supply_mmagic_names
from mmseg_semflow.extras import MissingExtraError

supply_mmagic_names()
try:
    import mmagic  # noqa: F401
except ImportError as error:
    raise MissingExtraError('The border to mmagic', 'mmagic', 'mmagic',
                            error) from error

from .mmagic_batches import SemFlowGeneratorDataPreProcessor  # noqa: E402
from .semflow_generator import SemFlowGenerator  # noqa: E402

__all__ = ['SemFlowGenerator', 'SemFlowGeneratorDataPreProcessor']
