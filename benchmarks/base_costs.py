"""Compute what a training step costs upon each base, at full size without data.

Runs the real networks of ``configs/_base_/models`` on tensors without data, in
bfloat16 with gradient checkpointing; nothing is downloaded and no GPU is needed.
Prints the rows of the table in docs/bases.md, each as soon as it is known. Minutes for
each base. Example:
    python benchmarks/base_costs.py sd15 sd35-medium
"""

import argparse
from pathlib import Path
from typing import Tuple

from mmengine.config import Config

import mmseg_semflow  # noqa: F401
from mmseg_semflow.apis.costs import FakeStep, PeakMemory, count_flops

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
BASES = ('sd15', 'sd21', 'sdxl', 'sd35-medium', 'flux1-dev', 'flux2-klein', 'sana',
         'pixart-sigma', 'dit')


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'bases', nargs='*', metavar='BASE',
        help=f'of {", ".join(BASES)}; default: all')
    parser.add_argument(
        '--size', type=int, nargs=2, metavar=('HEIGHT', 'WIDTH'), default=(512, 1024),
        help='of the pictures; default: 512 1024. DiT takes squares alone, of HEIGHT')
    args = parser.parse_args()
    wrong = set(args.bases) - set(BASES)
    if wrong:
        parser.error(f'BASE must be of {", ".join(BASES)}, but got {min(wrong)}')
    return args


def memory_of(cfg: Config, size: Tuple[int, int]) -> int:
    """Count the bytes that one more picture takes at the worst moment.

    Gradients of weights are freed as soon as they are known: they do not depend on the
    number of pictures, and would hide what is freed before the last of them is there.
    """
    step = FakeStep(cfg, 1, size)
    for weight in step.network.parameters():
        weight.register_post_accumulate_grad_hook(lambda w: setattr(w, 'grad', None))
    peaks = []
    for step.batch_size in (1, 2):
        with step.autocast(), PeakMemory() as encoding:
            step.encode()
        with step.autocast(), PeakMemory() as training:
            loss = step.forward()
        with step.mode, training:
            loss.backward()
        peaks.append((encoding.peak, training.peak))
    return max(two - one for one, two in zip(*peaks, strict=True))


def row_of(base: str, size: Tuple[int, int]) -> str:
    """Compute the costs of a base for one picture, as a row."""
    if base == 'dit':
        size = (size[0], size[0])
    cfg = Config.fromfile(CONFIGS / 'semflow_cityscapes.py')
    cfg.model = Config.fromfile(CONFIGS / f'_base_/models/semflow_{base}.py').model
    flops = count_flops(cfg, size)
    return ' | '.join([
        f'| {base}', f'{memory_of(cfg, size) / 1e9:.1f}', *(
            f'{flops[part] / 1e12:.2f}'
            for part in ('encode', 'network', 'training', 'decode'))
    ]) + ' |'


if __name__ == '__main__':
    given = parse_args()
    print('| base | GB for an image | encoding of both, TFLOP | a call of the network '
          '| forward and backward | decoding |')
    print('| --- | --- | --- | --- | --- | --- |', flush=True)
    for base in given.bases or BASES:
        print(row_of(base, tuple(given.size)), flush=True)
