"""Fixtures of the tools: a config, a checkpoint, and how to call a tool."""

import runpy
import sys
from pathlib import Path

import pytest

from tiny import runner_cfg, save_checkpoint

ROOT = Path(__file__).parents[2]


@pytest.fixture
def files(tmp_path, street):
    """Config and checkpoint of an untrained segmentor."""
    cfg = runner_cfg(street, tmp_path / 'work')
    cfg.custom_imports = dict(imports=['mmseg_semflow'])
    cfg.test_pipeline = cfg.test_dataloader.dataset.pipeline
    cfg.dump(str(tmp_path / 'config.py'))
    save_checkpoint(tmp_path / 'model.pth')
    return str(tmp_path / 'config.py'), str(tmp_path / 'model.pth')


@pytest.fixture
def run_tool(files, monkeypatch, capsys):
    """Run a tool in this process; return all that it says."""

    def run(name, *args, fails=False):
        monkeypatch.setattr(
            sys, 'argv', [name, *files, '--device', 'cpu', *map(str, args)])
        reason = None
        try:
            runpy.run_path(str(ROOT / 'tools' / name), run_name='__main__')
        except SystemExit as error:
            reason = str(error.code)
        assert (reason is not None) == fails, reason
        said = capsys.readouterr()
        return f'{said.out}{said.err}{reason}'

    return run
