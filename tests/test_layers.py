"""Who may import what: the layers of the package."""

import ast
import sys
from pathlib import Path

import pytest

import mmseg_semflow

PACKAGE = Path(mmseg_semflow.__file__).parent
NETWORKS = {'torch', 'diffusers', 'transformers', 'safetensors', 'mmengine'}
TOOLBOX = {'torch', 'numpy', 'cv2', 'mmengine', 'mmcv', 'mmseg'}
# Folder or file: the libraries and the own folders it may import. The first
# that fits counts.
ALLOWED = {
    'flow': {'torch', 'torchdiffeq', 'flow'},
    'networks': {*NETWORKS, 'networks'},
    'models/semflow_model.py': {'torch', 'mmengine', 'flow', 'networks'},
    'models/segmentors': {*TOOLBOX, 'flow', 'models'},
    'models/__init__.py': {'models'},
    'datasets': {*TOOLBOX, 'flow', 'datasets'},
    'engine': {'torch', 'numpy', 'mmengine', 'engine'},
    '__init__.py': {'engine', 'datasets', 'models', 'networks', 'version'},
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
