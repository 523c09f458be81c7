r"""Convert label maps of other tools, by colours or by numbers, to labels 0 to K - 1.

TABLE is a CSV file with a line class,red,green,blue or class,number for every value;
the class void becomes 255. Example:
    python tools/dataset_converters/remap.py raw/labels classes.csv -o data/mine/ann_dir
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
    parser.add_argument('source', help='folder of label maps, with its subfolders')
    parser.add_argument('table')
    parser.add_argument('-o', '--out-dir', required=True, help='folder to write')
    parser.add_argument(
        '--nproc', type=int, default=1, help='number of processes')
    return parser.parse_args()


def main() -> None:
    """Run the tool."""
    args = parse_args()
    with imports():
        from mmseg_semflow.datasets.remapping import remap_label_maps
    classes = remap_label_maps(args.source, args.table, args.out_dir, args.nproc)
    print(f'{args.out_dir} is complete\nclasses = {tuple(classes)}')


if __name__ == '__main__':
    run(main, interrupted='the same command continues')
