"""SemFlow for mmsegmentation: segmentation and synthesis by one flow.

Importing this package registers all its parts; configs do so by
``custom_imports = dict(imports=['mmseg_semflow'])``.
"""

from .engine import init_cpu_process_group

# Before any runner is built, which would look for a GPU.
init_cpu_process_group()

from . import datasets, models, networks  # noqa: E402, F401
from .version import __version__  # noqa: E402

__all__ = ['__version__']
