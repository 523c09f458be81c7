"""Running of command line tools that mmsegmentation installs."""

import runpy
from importlib.util import find_spec
from pathlib import Path


def run_mmseg_tool(name: str) -> None:
    """Run a tool of mmsegmentation with the arguments of this process.

    Args:
        name (str): Path below mmsegmentation's ``tools`` folder, for example
            ``'dataset_converters/cityscapes.py'``.

    Raises:
        FileNotFoundError: If this mmsegmentation has no such tool.
    """
    package = Path(find_spec('mmseg').origin).parent
    # A wheel brings its tools inside the package, a checkout beside it.
    paths = [package / '.mim/tools' / name, package.parent / 'tools' / name]
    found = [path for path in paths if path.is_file()]
    if not found:
        raise FileNotFoundError(
            f"mmsegmentation's tools/{name} is neither at {paths[0]} nor at "
            f'{paths[1]}: install mmsegmentation 1.2.2')
    runpy.run_path(str(found[0]), run_name='__main__')
