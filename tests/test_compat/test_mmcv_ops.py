"""mmcv without its operators."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from mmseg_semflow.compat import mmcv_ops
from mmseg_semflow.compat.mmcv_ops import MissingOperators, supply_mmcv_ops


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Give an empty mmcv, not yet imported."""
    (tmp_path / 'mmcv').mkdir()
    (tmp_path / 'mmcv' / '__init__.py').touch()
    for name in ('mmcv', 'mmcv._ext'):
        # Set first, for what the test puts there to go with the test.
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / 'mmcv'


def test_what_is_missing_is_supplied(folder):
    supply_mmcv_ops()
    found = sys.modules['mmcv._ext']
    assert isinstance(found, MissingOperators)
    assert find_spec('mmcv._ext') is found.__spec__
    supply_mmcv_ops()
    assert sys.modules['mmcv._ext'] is found


@pytest.mark.parametrize('suffix', ['.py', '.abi3.so'])
def test_what_is_there_is_left_alone_though_it_is_broken(folder, suffix):
    (folder / f'_ext{suffix}').write_text('raise ImportError("broken")')
    supply_mmcv_ops()
    assert 'mmcv._ext' not in sys.modules
    with pytest.raises(ImportError):
        import mmcv._ext  # noqa: F401


def test_a_missing_mmcv_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, 'mmcv._ext', raising=False)
    monkeypatch.setitem(sys.modules, 'mmcv', None)
    with pytest.raises(ImportError, match='pip install mmcv-lite==2.1.0'):
        supply_mmcv_ops()


def test_an_operator_names_itself_and_its_build():
    module = MissingOperators('mmcv._ext')
    assert not hasattr(module, '__wrapped__')
    with pytest.raises(NotImplementedError) as error:
        module.ms_deform_attn_forward(1, im2col_step=2)
    assert str(error.value).startswith('ms_deform_attn_forward is an operator')
    # pip would take a wheel without operators from its cache.
    assert '--no-cache-dir --no-binary mmcv mmcv==2.1.0' in str(error.value)


@pytest.mark.process
def test_the_libraries_import_without_operators(tmp_path):
    """On a copy of the installed mmcv that lacks its compiled module."""
    copy = tmp_path / 'mmcv'
    copy.mkdir()
    for path in Path(find_spec('mmcv').origin).parent.iterdir():
        if not path.name.startswith('_ext'):
            (copy / path.name).symlink_to(path)
    mmdet = 'import mmdet.models' if find_spec('mmdet') else ''
    done = subprocess.run([
        sys.executable, '-W', 'ignore', '-c', f"""
import runpy
import sys
sys.path.insert(0, {str(tmp_path)!r})
sys.modules['torchvision'] = None
sys.modules.pop('mmcv._ext', None)
runpy.run_path({mmcv_ops.__file__!r})['supply_mmcv_ops']()
assert not {{'torch', 'mmcv', 'mmengine'}} & set(sys.modules)
import mmseg.apis
{mmdet}
import mmcv.ops
import torch
from mmcv.utils import collect_env
from mmseg.registry import MODELS
assert mmcv.__file__.startswith({str(tmp_path)!r})
assert MODELS.get('FCNHead') and MODELS.get('PointHead')
assert collect_env()['MMCV CUDA Compiler'] == 'n/a'
try:
    mmcv.ops.nms(torch.ones(1, 4), torch.ones(1), 0.5)
except NotImplementedError as error:
    print(error)
"""
    ], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith('nms is an operator of mmcv')
