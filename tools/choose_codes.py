r"""Choose anchor colours for a dataset that survive uncertain masks.

Where a network is in doubt it predicts a mixture of colours, whose nearest anchor can
belong to a third class. Looks for codes by which blurred masks of the training set
keep their labels best, sends masks of the test set through the autoencoder with them,
and prints them for the codec of the config. Example:
    python tools/choose_codes.py configs/semflow_camvid_taef2.py
"""

import argparse

from _options import add_cfg_options, read_config
from _startup import imports, run


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config')
    parser.add_argument(
        '--divisions', type=int,
        help='levels per channel; default: the least that the classes need')
    parser.add_argument(
        '--spacing', type=int, help='of the levels; default: the widest')
    parser.add_argument(
        '--num-images', type=int, default=100, help='of the training set')
    parser.add_argument(
        '--num-round-trips', type=int, default=10,
        help='masks of the test set through the autoencoder; 0 needs none of its '
        'weights')
    parser.add_argument('--num-exchanges', type=int, default=2000)
    parser.add_argument('--seed', type=int, default=0)
    add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    """Run the tool."""
    args = parse_args()
    with imports():
        import mmseg_semflow.runtime  # noqa: F401
        from mmseg_semflow.apis.autoencoder_choice import AutoencoderTrial
        from mmseg_semflow.apis.code_choice import CodeChoice, widest_levels
        from mmseg_semflow.apis.loading import meta_of_dataset
        from mmseg_semflow.apis.tables import to_markdown
        from mmseg_semflow.flow import PseudoMaskCodec
        cfg = read_config(args.config, args.cfg_options)
    own = cfg.model.semflow.codec
    levels = widest_levels(own.num_classes, args.divisions, args.spacing)
    # What it misses is said before the search.
    trial = args.num_round_trips and AutoencoderTrial(cfg, args.num_round_trips)
    choice = CodeChoice(cfg, args.num_images, args.seed)
    codes = choice.search(*levels, args.num_exchanges)
    compared = {
        'Eq. 7': (range(len(codes)), *levels),
        'config': (own.get('codes') or range(len(codes)), own.divisions,
                   own.spacing),
        'chosen': (codes, *levels)
    }
    rows = []
    for name, arguments in compared.items():
        ious = choice.score(*arguments)
        rows.append(
            dict(
                codes=name,
                mIoU=ious.nanmean().item(),
                **dict(zip(meta_of_dataset(cfg)['classes'], ious.tolist(),
                           strict=True))))
    print(f'\n\nlabels of blurred masks:\n\n{to_markdown(rows)}')
    if trial:
        kept = {key: own[key] for key in ('num_classes', 'void_color', 'ignore_index')
                if key in own}
        codecs = {
            name: PseudoMaskCodec(**kept, divisions=divisions, spacing=spacing,
                                  amplitude=0., codes=list(codes))
            for name, (codes, divisions, spacing) in compared.items()
        }
        rows = list(trial.round_trips(codecs))
        print(f'\nlabels after the autoencoder:\n\n{to_markdown(rows)}')
    print(f'\ndivisions={levels[0]}, spacing={levels[1]}, codes={tuple(codes)}')


if __name__ == '__main__':
    run(main)
