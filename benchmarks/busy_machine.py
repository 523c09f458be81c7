r"""Time the demo's training step beside busy neighbours, on a CPU.

Every setting of OpenMP is measured in fresh processes, alone and beside other
processes that want the same cores: ``python`` runs a loop of one thread,
``matmul`` one of torch's, with as many threads as torch likes. Prints the
medians and the means of an iteration, and their ratios to the first setting
alone. A setting is ``unset``, ``tools`` (what tools/_startup.py chooses on this
host) or variables of the environment. Example:
    python benchmarks/busy_machine.py --settings unset tools \
        OMP_WAIT_POLICY=PASSIVE,OMP_NUM_THREADS=1 --rounds 3
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Dict, Iterator, List, Tuple

sys.path.append(str(Path(__file__).resolve().parents[1] / 'tools'))
from _startup import THREADS, WAITING, openmp_settings

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = ('unset', 'tools', 'OMP_WAIT_POLICY=PASSIVE', 'GOMP_SPINCOUNT=100',
            'GOMP_SPINCOUNT=1000', 'GOMP_SPINCOUNT=10000', 'OMP_NUM_THREADS=1',
            'OMP_WAIT_POLICY=PASSIVE,OMP_NUM_THREADS=1',
            'OMP_WAIT_POLICY=PASSIVE,OMP_NUM_THREADS=2')
NEIGHBOURS = dict(
    python="""
print('ready', flush=True)
while True:
    pass
""",
    matmul="""
import torch
a = torch.randn(512, 512)
print('ready', flush=True)
while True:
    a @ a
""")
# Of which kind, and how many.
Load = Tuple[str, int]
ALONE: Load = ('', 0)
# By load and setting, seconds of single iterations.
Times = Dict[Tuple[Load, str], List[float]]


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--settings', nargs='+', default=SETTINGS)
    parser.add_argument(
        '--kinds', nargs='+', choices=NEIGHBOURS, default=list(NEIGHBOURS),
        help='of neighbours (default: all)')
    parser.add_argument(
        '--neighbours', type=int, nargs='*', default=[1, 2],
        help='how many of a kind (default: 1 2)')
    parser.add_argument(
        '--iterations', type=int, default=30, help='per setting, load and round')
    parser.add_argument(
        '--seconds', type=float, default=30,
        help='after which a process stops iterating')
    parser.add_argument('--rounds', type=int, default=2)
    parser.add_argument(
        '--cpus', type=int, help='stay on the first so many; default: all')
    parser.add_argument('--out', help='a .json file for all times')
    parser.add_argument('--worker', action='store_true', help=argparse.SUPPRESS)
    return parser.parse_args()


def environment(setting: str) -> Dict[str, str]:
    """Make the environment of a process that is to have a setting."""
    environ = {
        name: value for name, value in os.environ.items()
        if name not in (*WAITING, *THREADS)
    }
    if setting == 'tools':
        return {**environ, **openmp_settings(environ)}
    if setting == 'unset':
        return environ
    return {**environ, **dict(pair.split('=') for pair in setting.split(','))}


def measure(iterations: int, seconds: float) -> List[float]:
    """Time training steps in this process, after one to warm up.

    Args:
        iterations (int): How many.
        seconds (float): After which no other one begins.

    Returns:
        List[float]: Seconds of each.
    """
    import torch
    from mmengine.config import Config
    from mmengine.optim import build_optim_wrapper
    from mmengine.registry import MODELS, init_default_scope
    from mmengine.structures import PixelData

    cfg = Config.fromfile(ROOT / 'configs/semflow_toy.py')
    # mmsegmentation after the package, which supplies what it misses.
    from mmseg.structures import SegDataSample
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).train()
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    size = cfg.generate['size']
    batch = dict(inputs=[], data_samples=[])
    for _ in range(cfg.train_dataloader.batch_size):
        labels = torch.randint(cfg.codec.num_classes, (1, *size))
        batch['inputs'].append(
            torch.randint(256, (3, *size), dtype=torch.uint8))
        batch['data_samples'].append(
            SegDataSample(
                metainfo=dict(img_shape=size, ori_shape=size),
                gt_sem_seg=PixelData(data=labels)))
    times = []
    model.train_step(batch, wrapper)
    end = time.perf_counter() + seconds
    while len(times) < iterations and time.perf_counter() < end:
        start = time.perf_counter()
        model.train_step(batch, wrapper)
        times.append(time.perf_counter() - start)
    return times


@contextmanager
def neighbours(load: Load) -> Iterator[None]:
    """Let processes be busy meanwhile."""
    kind, count = load
    processes = [
        subprocess.Popen([sys.executable, '-c', NEIGHBOURS[kind]],
                         env=environment('unset'), stdout=subprocess.PIPE)
        for _ in range(count)
    ]
    try:
        for process in processes:
            process.stdout.readline()
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def run_worker(setting: str, args: argparse.Namespace) -> List[float]:
    """Time training steps in a fresh process."""
    done = subprocess.run([
        sys.executable, '-W', 'ignore', __file__, '--worker', '--iterations',
        str(args.iterations), '--seconds', str(args.seconds)
    ], env=environment(setting), check=True, text=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout.splitlines()[-1])


def to_table(times: Times, settings: List[str], loads: List[Load],
             average) -> str:
    """Lay out average seconds, and their ratios to the first setting alone."""
    idle = average(times[ALONE, settings[0]])
    names = [f'{count} {kind}' if count else 'alone' for kind, count in loads]
    lines = [f'| setting | {" | ".join(names)} |', '| --- ' * (1 + len(loads)) + '|']
    for setting in settings:
        found = [average(times[load, setting]) for load in loads]
        cells = [f'{value:.3f} ({value / idle:.2f})' for value in found]
        lines.append(f'| {setting} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def main() -> None:
    """Run the benchmark."""
    args = parse_args()
    if args.worker:
        print(json.dumps(measure(args.iterations, args.seconds)))
        return
    if args.cpus is not None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:args.cpus])
    settings = list(dict.fromkeys(args.settings))
    loads = [ALONE, *((kind, count) for kind in args.kinds
                      for count in args.neighbours)]
    times: Times = {
        (load, setting): [] for load in loads for setting in settings
    }
    for number in range(args.rounds):
        for load in loads:
            with neighbours(load):
                # Every other round backwards, as the machine's speed drifts.
                for setting in settings[::1 - 2 * (number % 2)]:
                    found = run_worker(setting, args)
                    times[load, setting] += found
                    print(f'round {number + 1}, {load[1]} {load[0] or "neighbours"}, '
                          f'{setting}: {statistics.median(found):.3f} s, '
                          f'{len(found)} iterations', file=sys.stderr, flush=True)
    print(f'{len(os.sched_getaffinity(0))} CPUs')
    for name, average in dict(
            median=statistics.median, mean=statistics.fmean).items():
        print(f'\nSeconds per iteration, {name} (ratio to {settings[0]!r} alone)\n')
        print(to_table(times, settings, loads, average))
    if args.out:
        Path(args.out).write_text(
            json.dumps([
                dict(neighbours=load[1], kind=load[0], setting=setting, seconds=found)
                for (load, setting), found in times.items()
            ], indent=1))


if __name__ == '__main__':
    main()
