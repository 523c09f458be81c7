"""What every tool does around its imports and its end.

A tool parses its arguments first, so that ``--help`` and mistakes are answered
at once, and imports torch and the toolboxes within :func:`imports`. This module
needs nothing but the standard library, and stands outside of the package, whose
import would load torch.
"""

import gc
import os
import sys
import time
import traceback
import warnings
from contextlib import contextmanager
from typing import Callable, Dict, Iterator, Mapping, Tuple, Type

# What says how OpenMP's threads wait: each of libgomp, which torch's wheels for
# Linux bring, and the last of libomp and Intel's library alone.
WAITING = ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT', 'KMP_BLOCKTIME')
THREADS = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS')
# A driver of NVIDIA's, of a GPU under Windows' Linux, of AMD's.
GPU_DRIVERS = ('/dev/nvidiactl', '/dev/dxg', '/dev/kfd')


def computes_on_cpu(environ: Mapping[str, str]) -> bool:
    """Tell whether torch will find no GPU, without loading it."""
    if environ.get('CUDA_VISIBLE_DEVICES') in ('', '-1'):
        return True
    return not any(map(os.path.exists, GPU_DRIVERS))


def busy_cores(seconds: float = 0.1) -> float:
    """Measure how many cores others keep busy, while this process sleeps.

    Args:
        seconds (float): How long to look. Defaults to 0.1.

    Returns:
        float: Number of cores; 0 where the system has no ``/proc/stat``.
    """
    def ticks() -> Tuple[int, int]:
        with open('/proc/stat') as file:
            counts = list(map(int, file.readline().split()[1:]))
        return sum(counts), sum(counts[3:5])  # idle, and waiting for a disk

    if not os.path.exists('/proc/stat'):
        return 0.
    total, idle = ticks()
    time.sleep(seconds)
    total, idle = (now - then for now, then in zip(
        ticks(), (total, idle), strict=True))
    return (1 - idle / total) * (os.cpu_count() or 1) if total else 0.


def openmp_settings(environ: Mapping[str, str]) -> Dict[str, str]:
    """Choose number and waiting of torch's threads; the whole policy.

    libgomp's threads wait for each other by spinning for milliseconds before
    they sleep. Where another process needs the core of one of them, the
    others burn theirs meanwhile, hundreds of times per iteration. Threads that
    sleep at once are slower on idle cores, where small networks make
    thousands of them wait for microseconds; no number of spins serves both
    (``benchmarks/busy_machine.py`` measures it). So they sleep where another
    process keeps a core busy now, and spin otherwise.

    Args:
        environ (Mapping[str, str]): The environment of this process.

    Returns:
        Dict[str, str]: Variables to set before torch is loaded. Nothing on a
        host with a GPU, and nothing where the user has chosen by one of
        :data:`WAITING`, or by a single thread, which waits for nobody.
    """
    if not computes_on_cpu(environ):
        return {}
    # The number of threads stays torch's own choice, that of the physical cores.
    if any(name in environ for name in WAITING) or environ.get(
            THREADS[0]) == '1' or busy_cores() <= 0.5:
        return {}
    return dict(OMP_WAIT_POLICY='PASSIVE')


@contextmanager
def imports() -> Iterator[None]:
    """Import within this context what takes long.

    The environment is prepared before torch can read it, and the garbage
    collector rests: what modules define lives as long as the process, and is
    not looked at afterwards either. Nothing happens where torch is loaded
    already, in a process that is not the tool's own.
    """
    if 'torch' in sys.modules:
        yield
        return
    os.environ.update(openmp_settings(os.environ))
    # OpenCV takes a picture of 2^30 pixels, or of a few bytes that claim as many.
    os.environ.setdefault('OPENCV_IO_MAX_IMAGE_PIXELS', str(2**28))
    # Imported by mmagic, it would look for updates on the network.
    os.environ.setdefault('NO_ALBUMENTATIONS_UPDATE', '1')
    # What imagecorruptions says, which mmdet imports, is for its authors.
    warnings.filterwarnings('ignore', message='pkg_resources is deprecated')
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def run(main: Callable[[], None],
        errors: Tuple[Type[Exception], ...] = (ValueError, OSError),
        interrupted: str = '') -> None:
    """Run a tool; what the user can mend ends it in one line, without a trace.

    Args:
        main (Callable): The tool.
        errors (Tuple[Type[Exception], ...]): What a config, a file or an
            argument can cause. Defaults to ValueError and OSError. With the
            variable ``SEMFLOW_TRACE`` set, traces are printed besides. Under
            a launcher of many processes, ``SEMFLOW_ERROR_FILE`` is where to
            leave the line; the launcher's script prints it last.
        interrupted (str): What to say after Ctrl-C. Defaults to nothing.

    Raises:
        SystemExit: With ``error: ...`` for one of ``errors``.
    """
    try:
        main()
    except errors as error:
        if os.environ.get('SEMFLOW_TRACE'):
            traceback.print_exc()
        print(flush=True)  # ends the line of a progress bar
        _stop(f'error: {_message(error)}')
    except KeyboardInterrupt:
        sys.exit(f'\ninterrupted{interrupted and f": {interrupted}"}')


def _stop(line: str) -> None:
    """Exit with a line, said once by all processes of a launcher."""
    path = os.environ.get('SEMFLOW_ERROR_FILE')
    if not path:
        sys.exit(line)
    try:
        with open(path, 'x') as file:
            print(line, file=file)
    except FileExistsError:
        with open(path) as file:
            if file.read().strip() not in ('', line):
                sys.exit(line)
    sys.exit(1)


def _message(error: Exception) -> str:
    # The text of a KeyError is its argument in quotation marks.
    quoted = isinstance(error, KeyError) and error.args
    text = str(error.args[0] if quoted else error)
    if 'Original Traceback' in text:
        # torch puts the trace of a data loader's worker into the message.
        text = text.rpartition(f'{type(error).__name__}: ')[2].strip()
    return text
