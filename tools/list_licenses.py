"""List the licences of the package and of all that it requires, as installed.

Example:
    python tools/list_licenses.py --extras demo,metrics
"""

import argparse
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from typing import Dict, Optional, Sequence, Set, Tuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

UNKNOWN = 'UNKNOWN'


def required(name: str, extras: Sequence[str]) -> Dict[str, Optional[Distribution]]:
    """Collect a package, what it requires, and what that requires.

    Args:
        name (str): The package, as installed.
        extras (Sequence[str]): Those of its extras that count.

    Returns:
        Dict[str, Optional[Distribution]]: By name; None for what is not installed.
    """
    found: Dict[str, Optional[Distribution]] = {}
    seen: Set[Tuple[str, str]] = set()
    waiting = [(name, extra) for extra in ('', *extras)]
    while waiting:
        name, extra = waiting.pop()
        name = canonicalize_name(name)
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            found[name] = None
            continue
        for line in found[name].requires or ():
            need = Requirement(line)
            if need.marker is None or need.marker.evaluate(dict(extra=extra)):
                waiting += [(need.name, own) for own in ('', *need.extras)]
    return found


def license_of(package: Distribution) -> str:
    """Tell the licence that a package states: expression, classifiers, or text."""
    meta = package.metadata
    classified = [
        line.rpartition(' :: ')[2] for line in meta.get_all('Classifier') or ()
        if line.startswith('License ::')
    ]
    text = (meta.get('License') or '').strip().splitlines()
    return meta.get('License-Expression') or ', '.join(classified) or (
        text[0] if text else UNKNOWN)


def main() -> None:
    """Run the tool."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--package', default='mmseg_semflow')
    parser.add_argument(
        '--extras', default='metrics,features,corruptions,parquet,demo',
        help='those that count besides what is required; default: %(default)s')
    args = parser.parse_args()
    found = required(args.package, [e for e in args.extras.split(',') if e])
    if found[canonicalize_name(args.package)] is None:
        sys.exit(f'error: {args.package} is not installed')
    for name, package in sorted(found.items()):
        if package is not None:
            print(f'{name}\t{package.version}\t{license_of(package)}')
    missing = sorted(name for name, package in found.items() if package is None)
    if missing:
        print(f'not installed: {", ".join(missing)}', file=sys.stderr)


if __name__ == '__main__':
    main()
