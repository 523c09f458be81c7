"""Convert a single-file Stable Diffusion 1 to a folder in diffusers' layout.

Example:
    python tools/model_converters/ldm2diffusers.py \
        configs/semflow_cityscapes.py v1-5-pruned.safetensors \
        pretrained/stable-diffusion-v1-5
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
    parser.add_argument('config', help='a config with its UNet and VAE')
    parser.add_argument('src', help='the .safetensors or .ckpt file')
    parser.add_argument('dst', help='the folder to write')
    parser.add_argument(
        '--overwrite', action='store_true', help='replace a diffusers folder')
    return parser.parse_args()


def main() -> None:
    """Run the tool."""
    args = parse_args()
    with imports():
        from mmseg_semflow.apis.checkpoint_conversion import stable_diffusion_to_folder
    stable_diffusion_to_folder(args.config, args.src, args.dst, args.overwrite)
    print(f'wrote {args.dst}')


if __name__ == '__main__':
    run(main)
