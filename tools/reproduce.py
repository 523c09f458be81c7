r"""Reproduce the paper's tables and figures, as far as there are checkpoints.

Runs the commands of docs/paper.md whose checkpoints are named and whose data are
there, says what the others lack, and writes paper.md with tables and pictures.
Called again, it goes on where it stopped. Example:
    python tools/reproduce.py --out work_dirs/paper \
        semflow_cityscapes=work_dirs/semflow_cityscapes/iter_8000.pth \
        semflow_celebamask_hq_released=face.pth
"""

import argparse
import sys
from pathlib import Path
from typing import Tuple

from _startup import imports, run


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, fromfile_prefix_chars='@',
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'checkpoints', nargs='*', type=_pair, metavar='NAME=CHECKPOINT',
        help='name of a config of docs/paper.md and its checkpoint; @FILE reads '
        'them from a file, one a line')
    parser.add_argument('--out', default='work_dirs/paper')
    return parser.parse_args()


def _pair(text: str) -> Tuple[str, str]:
    name, equals, path = text.partition('=')
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f'{text!r} must be NAME=CHECKPOINT')
    return name, path


def main() -> None:
    """Run the tool."""
    args = parse_args()
    with imports():
        import mmseg_semflow.runtime  # noqa: F401
        from mmseg_semflow.comparison.reproduction import Reproduction
    names = [name for name, _ in args.checkpoints]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        sys.exit(f'error: {twice[0]} is given twice')
    page = Path(__file__).parents[1] / 'docs/paper.md'
    reproduction = Reproduction(page, dict(args.checkpoints), args.out)
    failed, title = 0, None
    for section, command, state in reproduction.run():
        if section != title:
            print(f'\n{section}', flush=True)
            title = section
        print(f'  {state}\n    {command}', flush=True)
        failed += state.startswith('failed')
    print(f'\nwrote {reproduction.out / "paper.md"}')
    if failed:
        sys.exit(f'failed: {failed}; the others are done')


if __name__ == '__main__':
    run(main, interrupted='the same command goes on')
