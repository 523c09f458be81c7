r"""Make a labelled set of pictures from a checkpoint and the masks it trained on.

The masks are those of the training set of CONFIG. What is there is kept: the same
command continues after an interruption, and a larger --num-images adds pictures. See
docs/generation.md. Example:
    python tools/generate_dataset.py CONFIG CHECKPOINT --out data/generated \
        --num-images 500 --judge SEGMENTOR_CONFIG SEGMENTOR_CHECKPOINT
or, shared by 8 GPUs:
    tools/dist_generate.sh CONFIG CHECKPOINT 8 --out data/generated --num-images 500
"""

import argparse

from _options import add_cfg_options, read_config, take_rank
from _startup import imports, run


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('--out', required=True, help='folder to write to')
    parser.add_argument(
        '--num-images', type=int, required=True,
        help='pictures to draw, those that a filter rejects included')
    parser.add_argument('--seed', type=int, default=0)

    masks = parser.add_argument_group('masks')
    masks.add_argument(
        '--choose', choices=['rare', 'each', 'hard'], default='rare',
        help='masks with much of a rare class, cropped around it (DGInStyle); each '
        'mask once; or hard ones up to 20 times (FreeMask; needs --judge)')
    masks.add_argument(
        '--temperature', type=float, default=0.01,
        help='of --choose rare: the smaller, the rarer; default: 0.01')
    masks.add_argument(
        '--classes', nargs='+', metavar='NAME',
        help='of --choose rare: the only classes to choose; default: all')
    masks.add_argument(
        '--scale', type=float, nargs=2, metavar=('MIN', 'MAX'),
        help='how much larger than its crop a mask is; default: the smallest that '
        'the RandomResize of the training has, as segmentors enlarge pictures '
        'themselves')
    masks.add_argument(
        '--flip', type=float, help='probability; default: that of the training')
    masks.add_argument(
        '--paste', type=int, default=0,
        help='objects of other masks to paste, at most, chosen by rare classes; '
        'default: 0')
    masks.add_argument(
        '--size', type=int, nargs=2, metavar=('H', 'W'),
        help="size of the pictures; default: the config's synthesis.size")

    drawing = parser.add_argument_group('drawing')
    drawing.add_argument(
        '--fusion', type=int, nargs=2, metavar=('H', 'W'),
        help='size of training, where --size is larger: a picture of it gives the '
        'large regions, and overlapping windows draw what is small (DGInStyle)')
    drawing.add_argument(
        '--style', metavar='PICTURE_OR_FOLDER',
        help='give the latents the mean and deviation of those of these pictures')
    drawing.add_argument(
        '--style-strength', type=float, help='of --style, in [0, 1]; default: 1')
    drawing.add_argument(
        '--style-by-class', action='store_true',
        help='of --style: give every class the mean and deviation that it has in one '
        'of these pictures, in which the model finds it')
    drawing.add_argument(
        '--style-text', nargs='+', metavar='TEXT',
        help="words for a model that was trained with TextPrompt, such as 'foggy "
        "weather'; of several, picture i gets number i modulo their count; '' is "
        'none')
    drawing.add_argument(
        '--style-token', metavar='PICTURE_OR_FOLDER',
        help='for a model that was trained with StyleToken: tokens of these pictures; '
        'of several, picture i gets number i modulo their count')
    drawing.add_argument('--num-steps', type=int)
    drawing.add_argument('--solver')
    drawing.add_argument('--dtype', choices=['bfloat16'])
    drawing.add_argument('--batch-size', type=int)

    filters = parser.add_argument_group('filters')
    filters.add_argument(
        '--judge', nargs=2, metavar=('CONFIG', 'CHECKPOINT'),
        help='a segmentor of the same classes: pixels whose loss is above 1.25 of '
        'the mean of their class on real pictures become void (FreeMask)')
    filters.add_argument(
        '--min-agreement', type=float,
        help="share of pixels that the model's own segmentation must find; pictures "
        'below are rejected; default: calibrated on real pictures')
    filters.add_argument('--device')
    # What starts several processes gives it.
    parser.add_argument('--launcher', help=argparse.SUPPRESS)
    add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    """Run the tool."""
    args = parse_args()
    if args.style_strength is not None and args.style is None:
        raise ValueError('--style-strength needs --style, the pictures to look like')
    if args.style_by_class and args.style is None:
        raise ValueError('--style-by-class needs --style, the pictures to look like')
    if args.choose == 'hard' and args.judge is None:
        raise ValueError('--choose hard needs --judge, which tells what is hard')
    with imports():
        from mmseg_semflow.generation.generate import generate_set
        cfg = read_config(args.config, args.cfg_options)
    rank, world_size = take_rank()
    synthesis = {
        name: getattr(args, name)
        for name in ('num_steps', 'solver', 'dtype', 'batch_size')
        if getattr(args, name) is not None
    }
    if args.fusion is not None:
        synthesis['base_size'] = args.fusion
    records = generate_set(
        cfg, args.checkpoint, args.out, args.num_images, seed=args.seed,
        choose=args.choose, temperature=args.temperature, classes=args.classes,
        scale=args.scale, flip=args.flip, paste=args.paste, size=args.size,
        style=args.style, style_strength=args.style_strength,
        style_by_class=args.style_by_class,
        style_texts=args.style_text, style_token=args.style_token, judge=args.judge,
        min_agreement=args.min_agreement, device=args.device, rank=rank,
        world_size=world_size, **synthesis)
    if records is not None:
        kept = sum(record['kept'] for record in records)
        print(f'{kept} of {len(records)} pictures were kept: they and their labels '
              f'are in {args.out}, see contact_sheet.png, statistics.md and '
              'dataset.py, which a config can take')


if __name__ == '__main__':
    run(main, interrupted='the same command continues')
