"""Stand-ins for what is missing in other libraries; what is there stays.

Each module supplies names for one library that could not be imported without
them, and is used before that library is.
"""

from .mmcv_ops import supply_mmcv_ops
from .torchvision_ops import declare_torchvision_ops

__all__ = ['declare_torchvision_ops', 'supply_mmcv_ops']
