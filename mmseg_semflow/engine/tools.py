"""Running of mmsegmentation's own command line tools."""

import os.path as osp
import runpy

from mmengine.utils import get_installed_path


def run_mmseg_tool(name: str) -> None:
    """Run a tool that mmsegmentation installs, with this process' arguments.

    All options are those of mmsegmentation. Importing this package first
    gives the tool what torch >= 2.6 and hosts without a GPU need.

    Args:
        name (str): Path below mmsegmentation's ``tools`` folder, for example
            ``'train.py'``.

    Raises:
        FileNotFoundError: If this mmsegmentation has no such tool.
    """
    path = osp.join(
        get_installed_path('mmsegmentation'), '.mim', 'tools', name)
    if not osp.isfile(path):
        raise FileNotFoundError(
            f'{path} is not there: install mmsegmentation 1.2.2 from its wheel '
            'or by `pip install -e .`, both bring its tools')
    runpy.run_path(path, run_name='__main__')
