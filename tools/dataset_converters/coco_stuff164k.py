"""Convert COCO-Stuff-164k, by mmsegmentation's own converter.

Example:
    python tools/dataset_converters/coco_stuff164k.py data/coco_stuff164k --nproc 8
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
    parser.add_argument('coco_path', help='folder with images and annotations')
    parser.add_argument(
        '-o', '--out_dir',
        help='folder to write, where images are copied to as well; default: '
        'coco_path')
    parser.add_argument(
        '--nproc', type=int, default=16,
        help='number of processes (default: %(default)s)')
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()
    run_mmseg_tool('dataset_converters/coco_stuff164k.py')
