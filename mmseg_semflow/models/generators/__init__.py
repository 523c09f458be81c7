"""The adapter to mmagic, which has to be installed for it."""

try:
    import mmagic  # noqa: F401
except ImportError as error:
    raise ImportError(
        'SemFlowGenerator needs mmagic, which could not be imported '
        f"({error}): pip install 'mmseg_semflow[mmagic]' and then "
        'pip install --no-deps mmagic==1.2.0') from error

from .mmagic_batches import SemFlowGeneratorDataPreProcessor
from .semflow_generator import SemFlowGenerator

__all__ = ['SemFlowGenerator', 'SemFlowGeneratorDataPreProcessor']
