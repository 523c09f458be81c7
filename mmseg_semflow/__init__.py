"""SemFlow for mmsegmentation: segmentation and synthesis by one flow.

Importing this package registers all its parts, and changes nothing else;
configs do so by ``custom_imports = dict(imports=['mmseg_semflow'])``. What
training and testing need besides is :mod:`mmseg_semflow.runtime`. Where
mmsegmentation is not installed there is nothing to register with, and
:mod:`mmseg_semflow.export` runs what was trained.
"""

from importlib.util import find_spec

from .compat import declare_torchvision_ops, supply_mmcv_ops
from .version import __version__

# Where torchvision's operators cannot be loaded, or mmcv has none, diffusers and
# mmsegmentation could not be imported.
declare_torchvision_ops()
if find_spec('mmseg') is not None:
    supply_mmcv_ops()
    from . import datasets, engine, evaluation, models, networks  # noqa: F401
    from .models import data_preprocessor, segmentors  # noqa: F401

__all__ = ['__version__']
