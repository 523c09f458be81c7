"""The adapter to mmagic, which has to be installed for it."""

from mmseg_semflow.compat.mmagic import supply_mmagic_names

supply_mmagic_names()
try:
    import mmagic  # noqa: F401
except ImportError as error:
    raise ImportError(
        'SemFlowGenerator needs mmagic, which could not be imported '
        f"({error}): pip install 'mmseg_semflow[mmagic]' and then "
        'pip install --no-deps mmagic==1.2.0') from error

from .mmagic_batches import SemFlowGeneratorDataPreProcessor  # noqa: E402
from .semflow_generator import SemFlowGenerator  # noqa: E402

__all__ = ['SemFlowGenerator', 'SemFlowGeneratorDataPreProcessor']
