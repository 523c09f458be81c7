"""What importing the package changes, and what its runtime."""

import os
import subprocess
import sys

import pytest
from mmengine.fileio import get_file_backend
from mmengine.runner import CheckpointLoader

from mmseg_semflow.engine import AtomicLocalBackend
from mmseg_semflow.safe_loading import load_from_local

# As a launcher starts one of several processes.
LAUNCHED = '''
import mmengine.registry
import torch.distributed as dist
from mmengine.fileio import get_file_backend
from mmengine.registry import Registry
from mmengine.runner import CheckpointLoader

replaced = []
register = Registry._register_module


def is_ours(part):
    return part.__module__.startswith('mmseg_semflow')


def spy(self, *args, **kwargs):
    before = dict(self.module_dict)
    register(self, *args, **kwargs)
    replaced.extend(
        name for name in before if self.module_dict[name] is not before[name]
        and is_ours(self.module_dict[name]))


def of_mmengine():
    return (dict(CheckpointLoader._schemes), type(get_file_backend('a.pth')),
            dist.is_initialized())


Registry._register_module = spy
own = of_mmengine()
assert not own[2]

import mmseg_semflow
import mmseg.registry

assert of_mmengine() == own
assert replaced == [], replaced
shadowed = [
    key for name, registry in vars(mmseg.registry).items()
    if isinstance(registry, Registry) for key, part in
    registry.module_dict.items()
    if is_ours(part) and key in getattr(mmengine.registry, name).module_dict
]
assert shadowed == [], shadowed
assert 'SemFlow' in mmseg.registry.MODELS.module_dict

import mmseg_semflow.runtime

schemes, backend, group = of_mmengine()
assert [name for name in schemes if schemes[name] is not own[0][name]] == ['']
assert backend is mmseg_semflow.engine.AtomicLocalBackend
assert replaced == [], replaced
assert group and dist.get_backend() == 'gloo' and dist.get_world_size() == 1
print('all is as it should be')
'''


@pytest.mark.process
def test_the_package_registers_and_the_runtime_is_chosen(tmp_path):
    launched = dict(
        RANK='0', LOCAL_RANK='0', WORLD_SIZE='1', MASTER_ADDR='127.0.0.1',
        MASTER_PORT='0', CUDA_VISIBLE_DEVICES='')
    found = subprocess.run(
        [sys.executable, '-c', LAUNCHED], cwd=tmp_path, text=True,
        capture_output=True, env={**os.environ, **launched})
    assert found.stdout.endswith('all is as it should be\n'), found.stderr
    assert 'Error' not in found.stderr


def test_the_runtime_of_the_tests():
    assert CheckpointLoader._schemes[''] is load_from_local
    assert type(get_file_backend('a.pth')) is AtomicLocalBackend
