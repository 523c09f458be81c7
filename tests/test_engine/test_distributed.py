"""How many processes a host takes."""

import pytest
import torch

from mmseg_semflow.engine.distributed import init_cpu_process_group


@pytest.fixture
def launch(monkeypatch):

    def launch(processes, gpus):
        for name in ('RANK', 'LOCAL_RANK'):
            monkeypatch.setenv(name, '0')
        for name in ('WORLD_SIZE', 'LOCAL_WORLD_SIZE'):
            monkeypatch.setenv(name, str(processes))
        monkeypatch.setattr(torch.cuda, 'is_available', lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, 'device_count', lambda: gpus)
        init_cpu_process_group()

    return launch


def test_more_processes_than_gpus(launch):
    with pytest.raises(ValueError, match='8 processes .* this host has 2 GPUs'):
        launch(8, 2)


@pytest.mark.parametrize('processes', [1, 2])
def test_enough_gpus_are_left_to_mmengine(launch, processes):
    launch(processes, 2)
    assert not torch.distributed.is_initialized()


def test_a_host_without_a_gpu_takes_any_number(launch, monkeypatch):
    groups = []
    monkeypatch.setattr(
        torch.distributed, 'init_process_group', groups.append)
    launch(8, 0)
    assert groups == ['gloo']
