"""The import of mmagic 1.2.0 beside today's libraries."""

import os
import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import numpy as np

# Modules of diffusers by the names that mmagic 1.2.0 knows.
MOVED = {
    'diffusers.models.unet_2d_condition':
    'diffusers.models.unets.unet_2d_condition',
    'diffusers.pipelines.paint_by_example':
    'diffusers.pipelines.deprecated.paint_by_example',
}
CLIP = 'transformers.models.clip'


def supply_mmagic_names() -> None:
    """Let mmagic 1.2.0 find what numpy, diffusers and transformers renamed.

    To be called before mmagic is imported. A name that exists is left alone,
    and all are where mmagic is not installed. mmagic's metrics import
    albumentations, which would look for its updates on the network: it does
    not, unless the user set the variable that decides it.

    Raises:
        ImportError: If diffusers or transformers have neither name.
    """
    if find_spec('mmagic') is None:
        return
    os.environ.setdefault('NO_ALBUMENTATIONS_UPDATE', '1')
    if not hasattr(np, 'bool8'):
        np.bool8 = np.bool_
    for former, name in MOVED.items():
        if _is_missing(former):
            sys.modules[former] = import_module(name)
    former = f'{CLIP}.feature_extraction_clip'
    if _is_missing(former):
        module = ModuleType(former, f'CLIPImageProcessor by its name in {former}.')
        module.CLIPFeatureExtractor = import_module(
            f'{CLIP}.image_processing_clip').CLIPImageProcessor
        sys.modules[former] = module


def _is_missing(module: str) -> bool:
    return module not in sys.modules and find_spec(module) is None
