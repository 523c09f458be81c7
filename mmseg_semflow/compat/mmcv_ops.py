"""The import of ``mmcv.ops`` where mmcv is installed without its operators."""

import sys
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from types import ModuleType
from typing import Callable

EXTENSION = 'mmcv._ext'
BUILD = ("pip uninstall -y mmcv-lite mmcv && "
         "pip install 'setuptools<81' wheel ninja psutil && "
         "pip install --no-build-isolation --no-cache-dir --no-binary mmcv "
         "mmcv==2.1.0")


class MissingOperators(ModuleType):
    """Stands in for mmcv's compiled module: has every operator, runs none."""

    def __getattr__(self, name: str) -> Callable:
        if name.startswith('__'):
            raise AttributeError(f'module {self.__name__!r} has no {name!r}')

        def operator(*args, **kwargs):
            raise NotImplementedError(
                f'{name} is an operator of mmcv, which is installed without '
                f'them. To build it with them, in minutes: {BUILD}')

        return operator

    @staticmethod
    def get_compiler_version() -> str:
        """Return what mmcv itself reports where it has no operators."""
        return 'n/a'

    get_compiling_cuda_version = get_compiler_version


def supply_mmcv_ops() -> None:
    """Let mmseg, mmdet and mmagic be imported beside mmcv without operators.

    They import ``mmcv.ops`` whole, while only a few of their models call it.
    Where mmcv's compiled module is missing, a stand-in is put into
    ``sys.modules``, whose operators raise a ``NotImplementedError`` with their
    name and how to have them. A compiled module that exists is left alone, be
    it one that fails to load. Imports nothing.

    Raises:
        ImportError: If mmcv is not installed. mmsegmentation does not require
            it, since there are two distributions of it.
    """
    if EXTENSION in sys.modules:
        return
    mmcv = find_spec('mmcv')
    if mmcv is None:
        raise ImportError(
            'mmsegmentation needs mmcv 2.0 or 2.1: pip install mmcv-lite==2.1.0, '
            f'or, with its operators: {BUILD}')
    if PathFinder.find_spec(EXTENSION, mmcv.submodule_search_locations) is None:
        module = MissingOperators(EXTENSION)
        module.__spec__ = ModuleSpec(EXTENSION, loader=None)
        sys.modules[EXTENSION] = module
