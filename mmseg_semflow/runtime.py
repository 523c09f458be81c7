"""The runtime of training and testing: importing this module chooses it.

``configs/_base_/semflow_runtime.py`` names it among its ``custom_imports``, so
that mmsegmentation's own tools get it too, and ``tools/train.py`` and
``tools/test.py`` import it. From then on, in this process,

- mmengine reads local checkpoints by :func:`load_from_local`: without
  executing code, and with torch >= 2.6 at all;
- writes local files by :class:`AtomicLocalBackend`: whole at any moment;
- a launcher's processes on a host without a GPU form a gloo group.

All else that the runtime needs is named in configs: ``SafeCheckpointHook``,
``ResumableTrainLoop``, ``AutocastOptimWrapper``.
"""

from mmengine.fileio import register_backend
from mmengine.runner.checkpoint import CheckpointLoader

from .engine import AtomicLocalBackend
from .engine.distributed import init_cpu_process_group
from .safe_loading import load_from_local

CheckpointLoader.register_scheme(
    prefixes='', loader=load_from_local, force=True)
register_backend('local', AtomicLocalBackend, force=True, prefixes='')
# Before any runner is built, which would look for a GPU.
init_cpu_process_group()
