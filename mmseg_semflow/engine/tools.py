"""Running of mmsegmentation's own command line tools."""

import runpy
from pathlib import Path

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
    package = Path(get_installed_path('mmsegmentation'))
    # A wheel brings its tools inside the package, a checkout beside it.
    paths = [package / '.mim/tools' / name, package.parent / 'tools' / name]
    found = [path for path in paths if path.is_file()]
    if not found:
        raise FileNotFoundError(
            f"mmsegmentation's tools/{name} is neither at {paths[0]} nor at "
            f'{paths[1]}: install mmsegmentation 1.2.2')
    runpy.run_path(str(found[0]), run_name='__main__')
