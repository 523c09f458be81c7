r"""Measure mean and deviation of a dataset's latents, for the autoencoder.

Of the test images of a config and of their perturbed pseudo masks, for `mean` and
`std` of a TinyAutoencoder. Example:
    python tools/latent_statistics.py configs/semflow_cityscapes.py \
        --num-images 100
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
    parser.add_argument('--num-images', type=int, help='default: all')
    parser.add_argument(
        '--crop-size', type=int, nargs=2, metavar=('H', 'W'),
        help='also compare crops of latents with the latents of the crops')
    parser.add_argument('--device')
    add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    """Run the tool."""
    args = parse_args()
    with imports():
        import mmseg_semflow.runtime  # noqa: F401
        from mmseg_semflow.apis.autoencoder_choice import AutoencoderTrial
        cfg = read_config(args.config, args.cfg_options)
    # Those of the author's latents, whatever the config takes out already.
    for key in ('mean', 'std'):
        cfg.model.semflow.autoencoder.pop(key, None)
    trial = AutoencoderTrial(cfg, args.num_images, args.device)
    found = trial.statistics()
    print()
    for name, row in found.items():
        print(f'{name:9} mean {row["mean"]:.4f}, std {row["std"]:.4f}')
    print('\nof each channel of both:')
    for key, name in (('channel_means', 'mean'), ('channel_stds', 'std')):
        numbers = ', '.join(f'{value:.4f}' for value in found['both'][key])
        print(f'{name}=[{numbers}]')
    if args.crop_size:
        errors = trial.crop_errors(args.crop_size)
        print('\n\ncrops of latents, in parts of the deviation (root mean square):')
        for name, row in errors.items():
            print(f'{name:9} outermost cells {row["border"]:.3f}, inside '
                  f'{row["inside"]:.3f}')


if __name__ == '__main__':
    run(main)
