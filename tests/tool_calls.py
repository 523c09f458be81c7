"""A config and a checkpoint for the tools, and how to call one of them.

The conftest.py of a folder takes the fixtures that its tests need from here.
"""

import logging
import runpy
import shutil
import sys
from pathlib import Path

import pytest

from tiny import runner_cfg, save_checkpoint, write_street

TOOLS = Path(__file__).parents[1] / 'tools'


@pytest.fixture(scope='session')
def shared_files(tmp_path_factory):
    """Config and checkpoint of an untrained segmentor, which nobody changes.

    Its data are in the folder ``street`` beside them.
    """
    root = tmp_path_factory.mktemp('shared')
    cfg = runner_cfg(write_street(root / 'street'), root / 'work')
    cfg.custom_imports = dict(imports=['mmseg_semflow'])
    cfg.test_pipeline = cfg.test_dataloader.dataset.pipeline
    cfg.dump(str(root / 'config.py'))
    save_checkpoint(root / 'model.pth')
    return str(root / 'config.py'), str(root / 'model.pth')


@pytest.fixture
def files(shared_files, street, tmp_path):
    """The same for one test, which may change them and its ``street``."""
    config, checkpoint = map(Path, shared_files)
    text = config.read_text().replace(str(config.parent), str(tmp_path))
    (tmp_path / 'config.py').write_text(text)
    shutil.copy(checkpoint, tmp_path)
    return str(tmp_path / 'config.py'), str(tmp_path / 'model.pth')


@pytest.fixture
def call_tool(monkeypatch, capsys):
    """Call a tool by its command line, in this process.

    Returns all that it says, and why it stopped where ``fails`` expects that.
    """

    def call(name, *args, fails=False):
        monkeypatch.syspath_prepend(str(TOOLS))
        monkeypatch.setattr(sys, 'argv', [name, *map(str, args)])
        reason = None
        try:
            runpy.run_path(str(TOOLS / name), run_name='__main__')
        except SystemExit as error:
            reason = error.code and str(error.code)
        finally:
            # Some tools are silent for the rest of their process.
            logging.disable(logging.NOTSET)
        assert (reason is not None) == fails, reason
        said = capsys.readouterr()
        return f'{said.out}{said.err}{reason}'

    return call


@pytest.fixture
def run_tool(files, call_tool):
    """Call a tool that takes config and checkpoint."""

    def run(name, *args, **kwargs):
        return call_tool(name, *files, '--device', 'cpu', *args, **kwargs)

    return run
