"""Check, before a long training, all that it needs.

Versions, weights, dataset folders and some of their pairs, metrics, GPU memory
and disk. Nothing is trained. Prints what is wrong and how to mend it, and exits
with 1 if something is. Examples:
    python tools/check_setup.py configs/semflow_toy.py
    python tools/check_setup.py configs/semflow_cityscapes.py --gpus 8
"""

import argparse
import logging
import sys
from collections import Counter

from _options import add_cfg_options, read_config
from _startup import imports, run


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config')
    parser.add_argument(
        '--gpus', type=int, default=1, help='processes on this host')
    parser.add_argument(
        '--num-pairs', type=int, default=8,
        help='pairs to read per dataset')
    parser.add_argument('--work-dir', help='as in tools/train.py')
    add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    """Run the tool."""
    args = parse_args()
    # What is logged on the way is said by the findings.
    logging.disable(logging.WARNING)
    with imports():
        from mmseg_semflow.apis.setup_check import SetupCheck
        cfg = read_config(args.config, args.cfg_options)
    check = SetupCheck(cfg, args.work_dir, args.gpus, args.num_pairs)
    levels = Counter()
    for finding in check.run():
        levels[finding.level] += 1
        print(finding, flush=True)
    print(f'{levels["error"]} errors, {levels["warning"]} warnings')
    if levels['error']:
        sys.exit(1)


if __name__ == '__main__':
    run(main, (ValueError, OSError, ImportError))
