"""Evaluate both directions by number of steps and solver.

Writes sweep.md, sweep.csv and sweep.png after every row. Example:
    python tools/sweep_steps.py CONFIG CHECKPOINT --steps 1 2 5 10 25 \
        --solvers euler heun dopri5
"""

import argparse

from _startup import imports, run


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument(
        '--steps', type=int, nargs='+', default=[1, 2, 5, 10, 25])
    parser.add_argument('--solvers', nargs='+', default=['euler'])
    parser.add_argument(
        '--metrics', nargs='+',
        help='types of the metrics of the synthesis, see '
        'mmseg_semflow.evaluation; default: MaskConsistency SampleDiversity')
    parser.add_argument('--num-images', type=int, help='default: all')
    parser.add_argument(
        '--num-samples', type=int, default=2, help='images per mask')
    parser.add_argument('--out', default='work_dirs/sweep')
    parser.add_argument('--device')
    return parser.parse_args()


def main() -> None:
    """Run the tool."""
    args = parse_args()
    with imports():
        from mmseg_semflow.apis import load_model
        from mmseg_semflow.apis.sweep import StepSweep, write_tables
        from mmseg_semflow.apis.tables import to_markdown
    synthesis = dict(num_samples=args.num_samples)
    metrics = args.metrics and [dict(type=name) for name in args.metrics]
    for name, setting in dict(RoundTrip='round_trip', NoiseGain='noise_gain').items():
        if name in (args.metrics or ()):
            synthesis[setting] = True
    sweep = StepSweep(
        load_model(args.config, args.checkpoint, args.device), metrics,
        synthesis, args.num_images)
    rows = []
    for row in sweep.rows(args.steps, args.solvers):
        rows.append(row)
        write_tables(rows, args.out)
    print(f'\n{to_markdown(rows)}\nwrote sweep.md, sweep.csv and sweep.png to '
          f'{args.out}')


if __name__ == '__main__':
    run(main, (KeyError, ValueError, OSError), 'the finished rows are written')
