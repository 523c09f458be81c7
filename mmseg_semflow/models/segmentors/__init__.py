"""Adapters to mmsegmentation."""

from .compared import BBDM, DSM, SymmFlow
from .semflow import SemFlow

__all__ = ['BBDM', 'DSM', 'SemFlow', 'SymmFlow']
