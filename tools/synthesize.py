"""Synthesise images for masks: label maps, or coloured ones with --palette.

Example:
    python tools/synthesize.py CONFIG CHECKPOINT --masks masks/ --out images/ \
        --num-samples 3 --seed 0
"""

import argparse
import sys

from _startup import imports, run


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('--masks', required=True, help='a folder or a file')
    parser.add_argument('--out', required=True, help='folder to write to')
    parser.add_argument('--num-samples', type=int, help='images per mask')
    parser.add_argument('--seed', type=int)
    parser.add_argument('--num-steps', type=int)
    parser.add_argument('--solver')
    parser.add_argument(
        '--amplitude', type=float, help='default: that of the training')
    parser.add_argument(
        '--size', type=int, nargs=2, metavar=('H', 'W'),
        help='bring the masks to this size first; default: that of the config')
    parser.add_argument(
        '--keep-size', action='store_true',
        help='leave the masks their own size, whatever the config has')
    parser.add_argument(
        '--tile-size', type=int, nargs=2, metavar=('H', 'W'),
        help='overlapping windows, for masks larger than in training; the '
        'masks keep their size')
    parser.add_argument('--tile-stride', type=int, nargs=2, metavar=('H', 'W'))
    parser.add_argument(
        '--fusion', type=int, nargs=2, metavar=('H', 'W'),
        help='for masks larger than in training, this size: a picture of it gives '
        'the large regions, and overlapping windows draw what is small; the masks '
        'keep their size')
    parser.add_argument(
        '--style', metavar='PICTURE_OR_FOLDER',
        help='give the latents the mean and deviation of those of these pictures')
    parser.add_argument(
        '--style-strength', type=float, help='of --style, in [0, 1]; default: 1')
    parser.add_argument(
        '--style-by-class', action='store_true',
        help='of --style: give every class the mean and deviation that it has in one '
        'of these pictures, in which the model finds it')
    parser.add_argument(
        '--style-text', nargs='+', metavar='TEXT',
        help="words for a model that was trained with TextPrompt, such as 'foggy "
        "weather'; of several, sample i of every mask gets number i modulo their "
        "count; '' is none")
    parser.add_argument(
        '--style-token', metavar='PICTURE_OR_FOLDER',
        help='for a model that was trained with StyleToken: tokens of these pictures; '
        'of several, sample i of every mask gets number i modulo their count')
    parser.add_argument('--dtype', choices=['bfloat16'])
    parser.add_argument(
        '--batch-size', type=int,
        help='images of one size to transport together: faster where the device '
        'has room, but the bytes then depend, by rounding, on what shares the '
        'batch (docs/performance.md); default: 1')
    parser.add_argument(
        '--palette', nargs='?', const='', metavar='DATASET',
        help='masks are coloured: by the palette of the checkpoint, or of '
        'a data set that mmsegmentation knows')
    parser.add_argument(
        '--reduce-zero-label', action=argparse.BooleanOptionalAction,
        help='label 0 is void and class c has the label c + 1; default: as '
        'the data set has it')
    parser.add_argument(
        '--overwrite', action='store_true',
        help='replace pictures that were made for something else')
    parser.add_argument('--device')
    return parser.parse_args()


def main() -> None:
    """Run the tool."""
    args = parse_args()
    if args.style_strength is not None and args.style is None:
        raise ValueError('--style-strength needs --style, the pictures to look like')
    if args.style_by_class and args.style is None:
        raise ValueError('--style-by-class needs --style, the pictures to look like')
    if args.fusion and args.tile_size:
        raise ValueError('--fusion has windows of its own size: leave out --tile-size')
    with imports():
        from mmseg_semflow.apis import SemFlowInferencer
        from mmseg_semflow.files import digest_of
        from mmseg_semflow.synthesis.folder import synthesize_folder
    inferencer = SemFlowInferencer(args.config, args.checkpoint, args.device)
    names = ('num_samples', 'seed', 'num_steps', 'solver', 'amplitude', 'size',
             'tile_size', 'tile_stride', 'dtype', 'batch_size')
    given = {name: getattr(args, name) for name in names}
    given = {name: value for name, value in given.items() if value is not None}
    if args.keep_size:
        given['size'] = None
    if args.fusion:
        given['base_size'] = args.fusion
    synthesizer, unread = inferencer.styled_synthesizer(
        args.style, args.style_strength, args.style_text, args.style_token,
        args.style_by_class, **given)
    palette = None if args.palette is None else inferencer.palette
    if args.palette:
        from mmseg.utils import get_palette
        palette = get_palette(args.palette)

    def read(path):
        return inferencer.read(path, palette, args.reduce_zero_label)

    failed = synthesize_folder(
        synthesizer, read, args.masks, args.out, args.overwrite,
        dict(weights=digest_of(args.checkpoint), **inferencer.base))
    for reason in unread.values():
        print(f'left out of the style: {reason}', file=sys.stderr)
    for reason in failed.values():
        print(f'left out: {reason}', file=sys.stderr)
    print(f'the pictures are in {args.out}')
    if unread or failed:
        sys.exit(f'left out: {len(unread) + len(failed)}; the others are done')


if __name__ == '__main__':
    run(main, interrupted='the same command continues')
