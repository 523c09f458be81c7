"""Convert Cityscapes, by mmsegmentation's own converter.

Example:
    python tools/dataset_converters/cityscapes.py data/cityscapes --nproc 8
"""

import argparse
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from _mmseg import run_mmseg_tool


def parse_args() -> argparse.Namespace:
    """Parse the command line, as mmsegmentation's converter will once more."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'cityscapes_path', help='folder with leftImg8bit and gtFine')
    parser.add_argument(
        '--gt-dir', default='gtFine',
        help='its folder of annotations (default: %(default)s)')
    parser.add_argument(
        '-o', '--out-dir',
        help='folder for the lists of the splits; default: cityscapes_path')
    parser.add_argument(
        '--nproc', type=int, default=1, help='number of processes')
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()
    run_mmseg_tool('dataset_converters/cityscapes.py')
