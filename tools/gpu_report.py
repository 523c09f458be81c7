"""Measure what a GPU does with SemFlow, in a fixed order of worth.

Tests on the device, the training step, the authors' released step, inference,
memory, the data pipeline, a training on CamVid: each in a process of its own and
within its own time limit. Results are written as they are measured, a JSON and a log
per part and all of it in gpu.md; the same command goes on where it was ended.
docs/performance.md has more. Examples:
    python tools/gpu_report.py
    python tools/gpu_report.py --parts step memory --seconds 540
    python tools/gpu_report.py --rehearse
"""

import argparse
import json
import platform
import subprocess
import sys
from pathlib import Path

from _startup import imports, run

ROOT = Path(__file__).resolve().parents[1]
PARTS = ('tests', 'step', 'released', 'inference', 'memory', 'pipeline', 'camvid')


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--out', help='default: work_dirs/gpu, or work_dirs/gpu_rehearsal')
    parser.add_argument('--parts', nargs='+', choices=PARTS, default=PARTS)
    parser.add_argument(
        '--seconds', type=float,
        help='when to end, whatever runs then; the next call goes on with it')
    parser.add_argument(
        '--train-seconds', type=float,
        help='how long each method trains on CamVid; default: 240')
    parser.add_argument(
        '--rehearse', action='store_true',
        help='tiny sizes, on a CPU too: all is run, and no figure means anything')
    parser.add_argument('--part', choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.out = Path(args.out or 'work_dirs/gpu' + '_rehearsal' * args.rehearse)
    return args


def conditions_of(args: argparse.Namespace) -> dict:
    """Tell what the figures depend on, besides what stands beside them."""
    import torch
    cuda, device = torch.cuda.is_available(), f'{platform.machine()} CPU'
    if cuda:
        # By a process that ends: who asks CUDA takes memory of the GPU.
        device = subprocess.check_output([
            sys.executable, '-c', 'import torch; print(torch.cuda.get_device_name())'
        ], text=True).strip()
    return dict(
        device=device,
        torch=torch.__version__,
        cuda=torch.version.cuda if cuda else None,
        rehearsal=args.rehearse)


def heading_of(conditions: dict) -> str:
    """Say which device gave the figures, and whether they mean anything."""
    text = (f'# Measured on {conditions["device"]}\n\n'
            f'torch {conditions["torch"]}, CUDA {conditions["cuda"]}.')
    if conditions['cuda'] is None:
        text += ' There is no GPU: no figure here is one of a GPU.'
    if conditions['rehearsal']:
        text += ' A rehearsal with tiny sizes: no figure here means anything.'
    return text


def main() -> None:
    """Run the tool."""
    args = parse_args()
    with imports():
        from dataclasses import replace

        from mmseg_semflow.benchmark import parts as measured
        from mmseg_semflow.benchmark.report import (
            PartResults,
            check_folder,
            end_with_parent,
            run_parts,
            to_page,
        )
        from mmseg_semflow.files import write_bytes
    if args.part:
        end_with_parent()
        sizes = measured.REHEARSAL if args.rehearse else measured.Sizes()
        if args.train_seconds is not None:
            sizes = replace(sizes, train_seconds=args.train_seconds)
        part, = (part for part in measured.PARTS if part.name == args.part)
        part.run(PartResults(args.out, part.name), sizes, ROOT)
        return
    conditions = conditions_of(args)
    if conditions['cuda'] is None and not args.rehearse and set(
            args.parts) - {'pipeline'}:
        raise ValueError('there is no GPU here: --rehearse runs all parts with tiny '
                         'sizes, --parts pipeline measures what needs none')
    check_folder(args.out, conditions)

    def command(part) -> list:
        own = ['--part', part.name, '--out', str(args.out)]
        if args.rehearse:
            own.append('--rehearse')
        if args.train_seconds is not None:
            own += ['--train-seconds', str(args.train_seconds)]
        return [sys.executable, str(Path(__file__).resolve()), *own]

    def write_page() -> None:
        page = to_page(measured.PARTS, args.out, heading_of(conditions))
        write_bytes(args.out / 'gpu.md', page.encode())

    write_page()
    # A rehearsal may run on a CPU that others use.
    chosen = [
        replace(part, seconds=part.seconds * (10 if args.rehearse else 1))
        for part in measured.PARTS if part.name in args.parts
    ]
    run_parts(chosen, args.out, command, write_page, args.seconds)
    print(f'wrote {args.out / "gpu.md"}: ' + json.dumps({
        part.name: PartResults(args.out, part.name).status
        for part in measured.PARTS
    }))


if __name__ == '__main__':
    run(main, interrupted='the same command goes on')
