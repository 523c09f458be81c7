r"""Evaluate several methods on the same pictures, in one table.

Writes comparison.md, comparison.png (mIoU by network calls) and for each
direction a .csv and a .png (what the methods make of some images) after
every row. Example:
    python tools/compare.py \
        configs/comparison/semflow_plain_camvid.py semflow/iter_2600.pth \
        configs/comparison/dsm_camvid.py dsm/iter_2600.pth \
        --seeds 0 1 2 3 4
"""

import argparse
import sys

from _startup import imports, run


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'pairs', nargs='+', help='CONFIG CHECKPOINT [CONFIG CHECKPOINT ...]')
    parser.add_argument(
        '--steps', type=int, nargs='+',
        help='default: comparison.num_steps of each config, or 1 2 5 10 25')
    parser.add_argument(
        '--solvers', nargs='+',
        help="default: comparison.solvers of each config, or its process' own")
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    parser.add_argument('--num-images', type=int, help='default: all')
    parser.add_argument(
        '--metrics', nargs='*', default=['SampleDiversity'],
        help='types of the metrics of the synthesis, see '
        'mmseg_semflow.evaluation; none leaves the synthesis out')
    parser.add_argument(
        '--num-samples', type=int, default=2, help='images per mask')
    parser.add_argument(
        '--judge', nargs=2, metavar=('CONFIG', 'CHECKPOINT'),
        help='a segmentor for the mask consistency of all methods')
    parser.add_argument('--out', default='work_dirs/comparison')
    parser.add_argument('--device')
    args = parser.parse_args()
    if len(args.pairs) % 2:
        parser.error('each config needs its checkpoint, but got an odd number '
                     f'of files: {" ".join(args.pairs)}')
    return args


def main() -> None:
    """Run the tool."""
    args = parse_args()
    for name in ('RoundTrip', 'NoiseGain'):
        if name in args.metrics:
            sys.exit(f'error: {name} is for models of both directions: use '
                     'tools/sweep_steps.py')
    with imports():
        from mmseg_semflow.comparison.harness import (
            SEGMENTATION,
            SYNTHESIS,
            Comparison,
            write_comparison,
        )
    metrics = [dict(type=name) for name in args.metrics]
    if args.judge:
        metrics.append(
            dict(
                type='MaskConsistency',
                segmentor=args.judge[0],
                checkpoint=args.judge[1]))
    comparison = Comparison(args.pairs[::2], args.steps, args.seeds,
                            args.num_images, metrics, args.num_samples,
                            args.device, args.solvers)
    tables = {SEGMENTATION: [], SYNTHESIS: []}
    for table, row in comparison.rows(args.pairs[1::2]):
        tables[table].append(row)
        text = write_comparison(tables, comparison.pictures,
                                comparison.protocol, args.out, table)
    if not any(tables.values()):
        sys.exit('error: there is nothing to evaluate: give --metrics for '
                 'models that only synthesise images')
    print(f'\n{text}\nwrote comparison.md and the .png and .csv files to '
          f'{args.out}')
    notes = [row['note'] for row in tables[SEGMENTATION] if 'note' in row]
    if notes:
        sys.exit('error: ' + '; '.join(notes))


if __name__ == '__main__':
    run(main, (KeyError, ValueError, OSError), 'the finished rows are written')
