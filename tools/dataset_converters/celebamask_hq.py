"""Convert CelebAMask-HQ: one label map for the masks of all parts of a face.

Example:
    python tools/dataset_converters/celebamask_hq.py /path/to/CelebAMask-HQ \
        -o data/celebamask_hq --nproc 8
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
    parser.add_argument(
        'source', help='the unpacked folder, with CelebA-HQ-img, '
        'CelebAMask-HQ-mask-anno and CelebA-HQ-to-CelebA-mapping.txt')
    parser.add_argument(
        '-o', '--out-dir', default='data/celebamask_hq',
        help='folder to write (default: %(default)s)')
    parser.add_argument(
        '--nproc', type=int, default=1, help='number of processes')
    return parser.parse_args()


def main() -> None:
    """Run the tool."""
    args = parse_args()
    with imports():
        from mmseg_semflow.datasets.celebamask_hq import convert_celebamask_hq
    convert_celebamask_hq(args.source, args.out_dir, args.nproc)
    print(f'{args.out_dir} is complete')


if __name__ == '__main__':
    run(main, interrupted='the same command continues')
