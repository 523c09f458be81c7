"""mmagic beside today's libraries."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mmseg_semflow.compat import mmagic
from mmseg_semflow.compat.mmagic import CLIP, MOVED, supply_mmagic_names

FOLDER = Path(mmagic.__file__).parent
FEATURES = f'{CLIP}.feature_extraction_clip'
needs_mmagic = pytest.mark.skipif(
    find_spec('mmagic') is None, reason='mmagic is not installed')


@pytest.fixture
def nothing_supplied(monkeypatch):
    """Take away what another test had supplied, and after this one too."""
    monkeypatch.setattr(np, 'bool8', None, raising=False)
    monkeypatch.delattr(np, 'bool8')
    # Set first, for what the test puts there to go with the test.
    monkeypatch.setenv('NO_ALBUMENTATIONS_UPDATE', '')
    monkeypatch.delenv('NO_ALBUMENTATIONS_UPDATE')
    for name in (*MOVED, FEATURES):
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, name)


@needs_mmagic
def test_the_names_stand_for_the_same_things(nothing_supplied):
    from diffusers.models import UNet2DConditionModel
    from transformers import CLIPImageProcessor

    supply_mmagic_names()
    from diffusers.models.unet_2d_condition import UNet2DConditionModel as unet
    from diffusers.pipelines.paint_by_example import PaintByExampleImageEncoder
    from transformers.models.clip.feature_extraction_clip import CLIPFeatureExtractor
    assert np.bool8 is np.bool_
    assert unet is UNet2DConditionModel
    assert PaintByExampleImageEncoder.__name__ == 'PaintByExampleImageEncoder'
    assert issubclass(CLIPFeatureExtractor, CLIPImageProcessor)


@needs_mmagic
def test_names_that_exist_are_left_alone(nothing_supplied, monkeypatch):
    there = {name: ModuleType(name) for name in (*MOVED, FEATURES)}
    for name, module in there.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(np, 'bool8', 'there', raising=False)
    monkeypatch.setenv('NO_ALBUMENTATIONS_UPDATE', '0')
    supply_mmagic_names()
    assert np.bool8 == 'there'
    for name, module in there.items():
        assert sys.modules[name] is module
    assert os.environ['NO_ALBUMENTATIONS_UPDATE'] == '0'


def test_nothing_is_supplied_without_mmagic(nothing_supplied, monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmagic', None)
    before = set(sys.modules)
    supply_mmagic_names()
    assert 'bool8' not in vars(np)
    assert set(sys.modules) == before


@needs_mmagic
@pytest.mark.process
def test_mmagic_imports_whole(monkeypatch):
    """With the stand-ins alone, before the package itself is imported."""
    monkeypatch.delenv('NO_ALBUMENTATIONS_UPDATE', raising=False)
    done = subprocess.run([
        sys.executable, '-W', 'ignore', '-c', f"""
import runpy
import socket


def refused(*args, **kwargs):
    print('NETWORK', args)
    raise OSError('no network in this test')


socket.getaddrinfo = refused
# All stay alive, since with the first goes what it declared.
modules = [runpy.run_path(f'{FOLDER}/{{name}}.py')
           for name in ('torchvision_ops', 'mmcv_ops', 'mmagic')]
modules[0]['declare_torchvision_ops']()
modules[1]['supply_mmcv_ops']()
modules[2]['supply_mmagic_names']()
import mmagic.apis, mmagic.datasets, mmagic.evaluation, mmagic.models
from mmagic.registry import METRICS, MODELS
for name in ('CycleGAN', 'Pix2Pix', 'StableDiffusion', 'ViCo', 'AnimateDiff'):
    assert MODELS.get(name), name
assert METRICS.get('TransFID')
"""
    ], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'NETWORK' not in done.stdout
