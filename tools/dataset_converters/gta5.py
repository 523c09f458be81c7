"""Convert GTA5: label maps with the labels of Cityscapes' training.

Example:
    python tools/dataset_converters/gta5.py data/gta5 --nproc 8
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
    parser.add_argument('root', help='folder with images and labels')
    parser.add_argument(
        '--nproc', type=int, default=1, help='number of processes')
    return parser.parse_args()


def main() -> None:
    """Run the tool."""
    args = parse_args()
    with imports():
        from mmseg_semflow.datasets.gta5 import convert_gta5
    count = convert_gta5(args.root, args.nproc)
    print(f'{args.root} is complete: {count} label maps')


if __name__ == '__main__':
    run(main, interrupted='the same command continues')
