"""Convert a checkpoint of SemFlow to a folder of a pipeline of diffusers.

Example:
    python tools/model_converters/semflow2diffusers.py \
        configs/semflow_cityscapes.py work_dirs/semflow_cityscapes/iter_8000.pth \
        semflow_cityscapes
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
    parser.add_argument('config', help='the config of the checkpoint')
    parser.add_argument('src', help='the checkpoint')
    parser.add_argument('dst', help='the folder to write')
    parser.add_argument(
        '--overwrite', action='store_true', help='replace a diffusers folder')
    parser.add_argument(
        '--licence', help='of the weights, for the model card, such as apache-2.0')
    parser.add_argument(
        '--results',
        metavar='FILE',
        help='Markdown of figures and their protocol, for the model card, such as '
        'the comparison.md of tools/compare.py')
    return parser.parse_args()


def main() -> None:
    """Run the tool."""
    args = parse_args()
    with imports():
        from mmseg_semflow.apis.checkpoint_conversion import checkpoint_to_folder
    checkpoint_to_folder(args.config, args.src, args.dst, args.overwrite,
                         args.licence, args.results)
    print(f'wrote {args.dst}')


if __name__ == '__main__':
    run(main)
