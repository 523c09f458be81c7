"""What choosing the runtime changes, and nothing besides."""

import os
import subprocess
import sys

import pytest

# As a launcher starts one of several processes.
LAUNCHED = '''
import torch.distributed as dist
from mmengine.fileio import get_file_backend
from mmengine.runner import CheckpointLoader

import mmseg_semflow

own = dict(CheckpointLoader._schemes)
assert type(get_file_backend('a.pth')).__module__.startswith('mmengine')
assert not dist.is_initialized()

import mmseg_semflow.runtime

changed = [name for name, loader in CheckpointLoader._schemes.items()
           if own[name] is not loader]
assert changed == [''] and len(own) == len(CheckpointLoader._schemes), changed
assert own[''].__module__.startswith('mmengine')
assert CheckpointLoader._schemes[''] is mmseg_semflow.runtime.load_from_local
backend = type(get_file_backend('a.pth'))
assert backend is mmseg_semflow.engine.AtomicLocalBackend
assert dist.get_backend() == 'gloo' and dist.get_world_size() == 1
print('all is as it should be')
'''


@pytest.mark.process
def test_a_launched_process_that_chooses_the_runtime(tmp_path):
    launched = dict(
        RANK='0', LOCAL_RANK='0', WORLD_SIZE='1', MASTER_ADDR='127.0.0.1',
        MASTER_PORT='0', CUDA_VISIBLE_DEVICES='')
    found = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', LAUNCHED], cwd=tmp_path, text=True,
        capture_output=True, env={**os.environ, **launched})
    assert found.stdout.endswith('all is as it should be\n'), found.stderr
    # The group was left in order, too.
    assert found.returncode == 0 and 'Error' not in found.stderr
