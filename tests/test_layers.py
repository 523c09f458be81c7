"""Who may import what: the layers of the package."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mmseg_semflow

PACKAGE = Path(mmseg_semflow.__file__).parent
NETWORKS = {'torch', 'diffusers', 'transformers', 'safetensors', 'mmengine'}
TOOLBOX = {'torch', 'numpy', 'cv2', 'mmengine', 'mmcv', 'mmseg'}
# Folder or file: the libraries and the own folders it may import. The first
# that fits counts.
METRICS = {'torchmetrics', 'torch_fidelity', 'lpips'}
ALLOWED = {
    'flow': {'torch', 'torchdiffeq', 'flow'},
    'networks': {*NETWORKS, 'networks'},
    'models/synthesizer.py': {'torch', 'flow', 'models'},
    'models/data_preprocessor.py': {*TOOLBOX, 'flow'},
    'models/segmentors': {*TOOLBOX, 'flow', 'models'},
    'models/generators/gans': {
        'torch', 'mmcv', 'mmengine', 'mmagic', 'flow', 'models'
    },
    'models/generators': {'torch', 'mmengine', 'mmagic', 'models'},
    'models/__init__.py': {'models'},
    'models': {'torch', 'mmengine', 'flow', 'networks', 'models'},
    'datasets': {*TOOLBOX, 'safetensors', 'flow', 'files', 'datasets'},
    'evaluation': {*TOOLBOX, *METRICS, 'evaluation', 'engine'},
    'engine/synthesis_eval_hook.py': {'torch', 'numpy', 'mmengine', 'models'},
    'engine/train_loop.py': {'torch', 'mmengine', 'datasets'},
    'engine': {'torch', 'numpy', 'mmengine', 'files', 'engine'},
    'apis/conversion.py': {'torch', 'mmengine', 'mmseg', 'networks', 'apis'},
    'apis/setup_check.py': {
        *TOOLBOX, 'packaging', 'datasets', 'engine', 'flow', 'networks', 'apis'
    },
    'apis': {
        *TOOLBOX, 'PIL', 'matplotlib', 'gradio', 'fastapi', 'uvicorn', 'jinja2',
        'safetensors', 'datasets', 'files', 'flow', 'models', 'apis'
    },
    '__init__.py': {
        'engine', 'datasets', 'evaluation', 'models', 'networks', 'version'
    },
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


def test_the_core_needs_no_extra():
    """Without the extras all imports work, and asking for one names it."""
    done = subprocess.run([
        sys.executable, '-W', 'ignore', '-c', """
import sys
for name in ('mmagic', 'torchvision', 'torchmetrics', 'torch_fidelity', 'lpips',
             'gradio', 'playwright'):
    sys.modules[name] = None
import mmseg_semflow.webapp.app
from mmengine.registry import METRICS
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
    ], capture_output=True, text=True, check=True)
    assert "pip install 'mmseg_semflow[demo]'" in done.stdout
    assert 'pip install --no-deps mmagic==1.2.0' in done.stdout
