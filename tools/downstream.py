r"""Measure what a generated, labelled set of pictures is worth to a segmentor.

Trains a config of mmsegmentation on real pictures, on generated ones and on both,
in equal iterations, for several seeds, and tests it. Writes downstream.md,
downstream.csv, downstream.png and runs.csv after every run. The same command goes
on where it was interrupted. Example:
    python tools/downstream.py configs/comparison/segformer_b0_camvid320.py \
        --generated work_dirs/generated --share 0.1 \
        --rare Pole SignSymbol Pedestrian Bicyclist
"""

import argparse
import os
import re

from _options import add_cfg_options, read_config
from _startup import imports, run


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config')
    parser.add_argument(
        '--generated', required=True, metavar='DIR',
        help='folder of the generated set, with its dataset.py')
    parser.add_argument(
        '--arms', nargs='+', default=['real', 'generated', 'both'],
        help='what to train on, of real, generated, both, copy_paste and '
        'both_copy_paste; default: real generated both')
    parser.add_argument(
        '--generated-share', type=float, default=0.5,
        help='share of generated pictures in both, in (0, 1); default: 0.5')
    parser.add_argument(
        '--seeds', type=int, nargs='+', default=[0, 1, 2], help='default: 0 1 2')
    parser.add_argument(
        '--share', type=float, default=1.,
        help='share of the real pictures to train on, in (0, 1]; default: 1')
    parser.add_argument(
        '--distort', action='store_true',
        help='add PhotoMetricDistortion to the transforms of all arms')
    parser.add_argument(
        '--rare', nargs='+', default=[], metavar='CLASS',
        help='classes whose mean IoU is a figure of its own; default: none')
    parser.add_argument(
        '--corruptions', nargs='+', default=[], metavar='NAME',
        help='test also on pictures with fog, snow, gaussian_noise, darkness and '
        'others of imagecorruptions; default: none')
    parser.add_argument(
        '--severity', type=int, default=3, help='of --corruptions, 1 to 5; default: 3')
    parser.add_argument('--work-dir', default='work_dirs/downstream')
    parser.add_argument(
        '--device', type=_device, help='cpu, cuda or cuda:N; default: a GPU if '
        'there is one')
    add_cfg_options(parser)
    return parser.parse_args()


def _device(text: str) -> str:
    if not re.fullmatch(r'cpu|cuda(:\d+)?', text):
        raise argparse.ArgumentTypeError(f'{text!r} must be cpu, cuda or cuda:N')
    return text


def use_device(name: str) -> None:
    """Let mmengine's runner, which takes the current GPU, train on this one."""
    import torch
    if not torch.cuda.is_available():
        raise ValueError(f'--device {name} needs a GPU, but torch finds none')
    number, count = int(name[5:] or 0), torch.cuda.device_count()
    if number >= count:
        raise ValueError(f'--device cuda:N needs N below {count}, the number of '
                         f'GPUs, but got {name}')
    torch.cuda.set_device(number)


def main() -> None:
    """Run the tool."""
    args = parse_args()
    if args.device == 'cpu':
        # Before torch looks for a GPU, which the runner would take.
        os.environ['CUDA_VISIBLE_DEVICES'] = '-1'
    with imports():
        # Before mmsegmentation, for which it supplies what is missing.
        import mmseg_semflow.runtime  # noqa: F401
        from mmseg_semflow.generation.downstream import Downstream, write_downstream
    if args.device not in (None, 'cpu'):
        use_device(args.device)
    downstream = Downstream(
        read_config(args.config, args.cfg_options), args.generated, args.work_dir,
        args.arms, args.seeds, args.share, args.distort, args.rare,
        args.corruptions, args.severity, args.generated_share)
    runs = []
    for row in downstream.runs():
        runs.append(row)
        text = write_downstream(runs, downstream.protocol, args.work_dir)
    print(f'\n{text}\nwrote downstream.md, downstream.csv, downstream.png and '
          f'runs.csv to {args.work_dir}')


if __name__ == '__main__':
    run(main, interrupted='the same command goes on')
