"""The import of torchvision beside a torch that it was not built for."""

from importlib.util import find_spec
from pathlib import Path
from typing import Optional

import torch

_library: Optional[torch.library.Library] = None


def declare_torchvision_ops() -> None:
    """Let torchvision be imported where its operators cannot be loaded.

    The torchvision of the package index is linked to CUDA. Beside a torch for
    the CPU its import fails (``operator torchvision::nms does not exist``),
    and that of diffusers and transformers with it. Nothing here calls these
    operators: declared, they let the Python parts of torchvision work. Where
    they load, this does nothing.
    """
    global _library
    spec = find_spec('torchvision')
    if spec is None or _library is not None:
        return
    for path in Path(spec.origin).parent.glob('_C*.so'):
        try:
            torch.ops.load_library(path)
        except OSError:
            continue
        return
    if hasattr(torch.ops.torchvision, 'nms'):  # declared by somebody else
        return
    _library = torch.library.Library('torchvision', 'DEF')
    for name in ('nms', 'qnms'):
        _library.define(
            f'{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
