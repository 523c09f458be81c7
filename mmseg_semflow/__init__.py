"""SemFlow for mmsegmentation: segmentation and synthesis by one flow.

Importing this package registers all its parts; configs do so by
``custom_imports = dict(imports=['mmseg_semflow'])``.
"""

import os

from .engine.torchvision_ops import declare_torchvision_ops

# Before anything imports diffusers or transformers.
declare_torchvision_ops()
# mmsegmentation imports albumentations where it is installed, which would look
# for its updates on the network.
os.environ.setdefault('NO_ALBUMENTATIONS_UPDATE', '1')

from .engine import init_cpu_process_group  # noqa: E402

# Before any runner is built, which would look for a GPU.
init_cpu_process_group()

from . import datasets, evaluation, models, networks  # noqa: E402, F401
from .engine import synthesis_eval_hook, train_loop  # noqa: E402, F401
from .version import __version__  # noqa: E402

__all__ = ['__version__']
