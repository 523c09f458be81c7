"""SemFlow for mmsegmentation: segmentation and synthesis by one flow.

Importing this package registers all its parts, and changes nothing else;
configs do so by ``custom_imports = dict(imports=['mmseg_semflow'])``. What
training and testing need besides is :mod:`mmseg_semflow.runtime`.
"""

from .compat import supply_missing

# Where mmcv has no operators, or torchvision's cannot be loaded, mmsegmentation
# and diffusers could not be imported.
supply_missing()

from . import datasets, engine, evaluation, models, networks  # noqa: E402, F401
from .version import __version__  # noqa: E402

__all__ = ['__version__']
