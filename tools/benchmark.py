"""Measure the training step, inference and the data pipeline of a config.

Against a plain implementation of the paper's step and a bare training loop, in
alternation. Prints tables and writes them to benchmark.json. Examples:
    python tools/benchmark.py configs/semflow_toy.py
    python tools/benchmark.py configs/semflow_cityscapes.py --batch-size 2 \
        --size 256 256 --optimizer SGD --parts step --repeats 5
"""

import argparse
import json
from pathlib import Path

from _options import add_cfg_options, read_config
from _startup import imports, run

PARTS = ('runner', 'step', 'profile', 'inference', 'pipeline')


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config')
    parser.add_argument('--out', default='work_dirs/benchmark')
    parser.add_argument('--parts', nargs='+', choices=PARTS, default=PARTS)
    parser.add_argument('--repeats', type=int, default=10)
    parser.add_argument('--batch-size', type=int)
    parser.add_argument('--size', type=int, nargs=2, metavar=('H', 'W'))
    parser.add_argument(
        '--optimizer',
        help='in place of that of the config, where its state is too large')
    parser.add_argument(
        '--num-steps', type=int, nargs='+', default=[1, 25],
        help='numbers of steps of the inference')
    parser.add_argument(
        '--file-size', type=int, nargs=2, metavar=('H', 'W'),
        help='of the files that stand in for missing data; default: twice '
        'the size of the config')
    add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    """Run the tool."""
    args = parse_args()
    with imports():
        from mmseg_semflow.apis.tables import to_markdown
        from mmseg_semflow.benchmark.measure import Benchmark
        from mmseg_semflow.files import write_bytes
        cfg = read_config(args.config, args.cfg_options)
    benchmark = Benchmark(cfg, Path(args.out), args.size, args.batch_size,
                          args.optimizer, args.file_size, args.repeats)

    def measure_inference() -> None:
        benchmark.measure_inference(args.num_steps)
        process = benchmark.model.semflow.process
        if 'mask_to_image' in process.directions and benchmark.batch_size > 1:
            benchmark.measure_synthesis(args.num_steps[0])

    def measure_steps() -> None:
        benchmark.measure_steps()
        benchmark.measure_colouring()

    measures = dict(
        runner=benchmark.measure_runner,
        step=measure_steps,
        profile=benchmark.measure_profile,
        inference=measure_inference,
        pipeline=benchmark.measure_pipeline)
    for part in PARTS:
        if part in args.parts:
            print(f'measuring: {part}', flush=True)
            measures[part]()
    for name, rows in benchmark.tables.items():
        if rows:
            print(f'## {name}\n\n{to_markdown(rows)}')
    print('; '.join(f'{k}: {v}' for k, v in benchmark.conditions.items()))
    path = Path(args.out) / 'benchmark.json'
    results = dict(conditions=benchmark.conditions, **benchmark.tables)
    write_bytes(path, json.dumps(results, indent=2).encode())
    print(f'wrote {path}')


if __name__ == '__main__':
    run(main)
