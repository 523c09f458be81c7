r"""Measure what an autoencoder leaves of pseudo masks, by codec.

Encodes the masks of the test images, decodes them and looks for the nearest
anchors: mIoU and pixels, and the IoU of each class. With --latent-noise also
after Gaussian noise on the latents, white or of several sizes. Writes codecs.md and
codecs.csv. Example:
    python tools/compare_codecs.py configs/semflow_cityscapes.py \
        --codecs 3,127 6,50 --codes spread eq7 --latent-noise 0 0.3 0.5,0.4,0.3
"""

import argparse
from math import inf
from pathlib import Path
from typing import Tuple

from _options import add_cfg_options, read_config
from _startup import imports, run


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config')
    parser.add_argument(
        '--codecs', nargs='+', type=_codec, default=[], metavar='K,S',
        help="divisions and spacing, beside the config's own codec")
    parser.add_argument(
        '--codes', nargs='+', choices=['eq7', 'spread'], default=['eq7'],
        help='0, 1, 2, ... as in Eq. 7, or colours that lie far apart')
    parser.add_argument(
        '--latent-noise', nargs='+', type=_noise, default=[(0., )],
        metavar='STD[,STD...]',
        help='deviations; of several sizes as mask_noise has them; default: 0')
    parser.add_argument('--num-images', type=int, help='default: all')
    parser.add_argument('--out', default='work_dirs/codecs')
    parser.add_argument('--device')
    add_cfg_options(parser)
    return parser.parse_args()


def _codec(text: str) -> Tuple[int, int]:
    divisions, comma, spacing = text.partition(',')
    if not (divisions.isdigit() and comma and spacing.isdigit()):
        raise argparse.ArgumentTypeError(f'{text!r} must be K,S, such as 3,127')
    return int(divisions), int(spacing)


def _noise(text: str) -> Tuple[float, ...]:
    try:
        deviations = tuple(map(float, text.split(',')))
    except ValueError:
        deviations = (-1., )
    if not all(0 <= deviation < inf for deviation in deviations):
        raise argparse.ArgumentTypeError(
            f'{text!r} must be deviations >= 0, such as 0.5 or 0.5,0.4')
    return deviations


def main() -> None:
    """Run the tool."""
    args = parse_args()
    with imports():
        import mmseg_semflow.runtime  # noqa: F401
        from mmseg_semflow.apis.autoencoder_choice import (
            AutoencoderTrial,
            codec_for_trial,
        )
        from mmseg_semflow.apis.tables import to_csv, to_markdown
        from mmseg_semflow.files import write_bytes
        cfg = read_config(args.config, args.cfg_options)
    trial = AutoencoderTrial(cfg, args.num_images, args.device)
    codecs = {'config': trial.codec}
    for divisions, spacing in args.codecs:
        for kind in args.codes:
            codecs[f'{divisions},{spacing} {kind}'] = codec_for_trial(
                trial.codec.num_classes, divisions, spacing, kind == 'spread',
                trial.codec.ignore_index)
    rows = list(trial.round_trips(codecs, args.latent_noise))
    write_bytes(Path(args.out, 'codecs.md'), to_markdown(rows).encode())
    write_bytes(Path(args.out, 'codecs.csv'), to_csv(rows).encode())
    print(f'\n{to_markdown(rows)}\nwrote codecs.md and codecs.csv to {args.out}')


if __name__ == '__main__':
    run(main)
