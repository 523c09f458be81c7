"""What a training step costs on this machine, beside plain ways to do it.

Used by ``tools/benchmark.py`` and imported by nothing else: importing
:mod:`.baselines` registers the loop that times mmengine's runner.
"""

from .measure import Benchmark

__all__ = ['Benchmark']
