"""Convert the UNet that SemFlow's authors release to a checkpoint.

Example:
    python tools/model_converters/released2semflow.py \
        configs/semflow_celebamask_hq_released.py face.pt face.pth
"""

import argparse
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from _startup import imports, run


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='the config for the checkpoint')
    parser.add_argument('src', help="the authors' file, for example face.pt")
    parser.add_argument('dst', help='the checkpoint to write')
    parser.add_argument(
        '--amplitude', type=float,
        help="of the training's perturbation, in 8-bit levels; default: that of "
        "the authors' code, 6.375")
    parser.add_argument(
        '--sd-folder',
        help='Stable Diffusion 1.5, for the VAE and the null prompt; default: '
        'that of the config')
    parser.add_argument(
        '--overwrite', action='store_true', help='replace a checkpoint')
    return parser.parse_args()


def main() -> None:
    """Run the tool."""
    args = parse_args()
    with imports():
        from mmseg_semflow.apis.checkpoint_conversion import (
            RELEASED_AMPLITUDE,
            released_to_checkpoint,
        )
    amplitude = RELEASED_AMPLITUDE if args.amplitude is None else args.amplitude
    released_to_checkpoint(args.config, args.src, args.dst, args.sd_folder,
                           args.overwrite, amplitude)
    print(f'wrote {args.dst}')


if __name__ == '__main__':
    run(main)
