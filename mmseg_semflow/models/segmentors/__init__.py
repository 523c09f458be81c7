"""The adapter to mmsegmentation."""

from .semflow import SemFlow

__all__ = ['SemFlow']
