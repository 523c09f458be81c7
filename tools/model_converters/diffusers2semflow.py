"""Convert a folder that semflow2diffusers.py wrote back to a checkpoint.

Example:
    python tools/model_converters/diffusers2semflow.py \
        configs/semflow_cityscapes.py semflow_cityscapes semflow_cityscapes.pth
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
    parser.add_argument('src', help='the folder')
    parser.add_argument('dst', help='the checkpoint to write')
    parser.add_argument(
        '--overwrite', action='store_true', help='replace a checkpoint')
    return parser.parse_args()


def main() -> None:
    """Run the tool."""
    args = parse_args()
    with imports():
        from mmseg_semflow.apis.checkpoint_conversion import folder_to_checkpoint
    folder_to_checkpoint(args.config, args.src, args.dst, args.overwrite)
    print(f'wrote {args.dst}')


if __name__ == '__main__':
    run(main)
