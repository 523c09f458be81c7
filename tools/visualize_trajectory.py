"""Show the decoded latents along the path, as a strip and as an animation.

Example:
    python tools/visualize_trajectory.py CONFIG CHECKPOINT --image street.png \
        --mask labels.png --out work_dirs/trajectory

The times are those of the solver; where the config's steps lie close together,
--cfg-options model.semflow.process.time_grid=uniform spreads them.
"""

import argparse
from pathlib import Path

from _options import add_cfg_options, read_config
from _startup import imports, run


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('--image', help='from image to mask')
    parser.add_argument('--mask', help='from mask to image')
    parser.add_argument(
        '--palette', action='store_true', help='the mask is coloured')
    parser.add_argument('--num-steps', type=int, default=25)
    parser.add_argument('--solver', default='euler')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument(
        '--size', type=int, nargs=2, metavar=('H', 'W'),
        help='bring image and mask to this size first')
    parser.add_argument('--out', default='work_dirs/trajectory')
    parser.add_argument('--device')
    add_cfg_options(parser)
    args = parser.parse_args()
    if args.image is None and args.mask is None:
        parser.error('give --image, --mask or both')
    return args


def main() -> None:
    """Run the tool."""
    args = parse_args()
    with imports():
        from mmseg_semflow.apis import SemFlowInferencer
        from mmseg_semflow.synthesis.trajectory import write_trajectory
        cfg = read_config(args.config, args.cfg_options)
    inferencer = SemFlowInferencer(
        cfg, args.checkpoint, args.device, channel_order='rgb')
    settings = dict(
        num_steps=args.num_steps, solver=args.solver, seed=args.seed)
    if args.size is not None:
        settings['size'] = args.size
    palette = inferencer.palette if args.palette else None
    for name, file in (('image', args.image), ('mask', args.mask)):
        if file is None:
            continue
        frames = inferencer.trajectory(
            **{name: file}, palette=palette, **settings)
        path = Path(args.out) / f'{Path(file).stem}_from_{name}'
        start = float(name == 'mask')
        times = inferencer.semflow.process.times(
            len(frames) - 1, start, 1 - start)
        write_trajectory(frames, path, times.tolist())
        print(f'wrote {path}.png and {path}.gif')


if __name__ == '__main__':
    run(main)
