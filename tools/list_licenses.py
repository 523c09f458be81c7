"""List the licences of the package and of all that it requires, as installed.

Example:
    python tools/list_licenses.py --extras demo,metrics
    python tools/list_licenses.py --bom > bom.cdx.json
"""

import argparse
import json
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from typing import Dict, List, Optional, Sequence, Set, Tuple
from urllib.parse import quote

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

UNKNOWN = 'UNKNOWN'
# One of them is imported by mmsegmentation, which requires neither.
UNSTATED = dict(mmsegmentation=('mmcv', 'mmcv-lite'))


def installed(name: str) -> Optional[Distribution]:
    """Find an installed package, None if it is not."""
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def required(
    name: str, extras: Sequence[str]
) -> Tuple[Dict[str, Optional[Distribution]], Dict[str, Set[str]]]:
    """Collect a package, what it requires, and what that requires.

    Args:
        name (str): The package, as installed.
        extras (Sequence[str]): Those of its extras that count.

    Returns:
        Tuple[Dict[str, Optional[Distribution]], Dict[str, Set[str]]]: The packages by
        name, None for what is not installed; and which of them each one requires.
    """
    found: Dict[str, Optional[Distribution]] = {}
    needs: Dict[str, Set[str]] = {}
    seen: Set[Tuple[str, str]] = set()
    waiting = [(name, extra) for extra in ('', *extras)]
    while waiting:
        name, extra = waiting.pop()
        name = canonicalize_name(name)
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        found[name] = installed(name)
        if found[name] is None:
            continue
        needs.setdefault(name, set())
        for line in (*(found[name].requires or ()),
                     *filter(installed, UNSTATED.get(name, ()))):
            need = Requirement(line)
            if need.marker is None or need.marker.evaluate(dict(extra=extra)):
                needs[name].add(canonicalize_name(need.name))
                waiting += [(need.name, own) for own in ('', *need.extras)]
    return found, needs


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


def bill_of_materials(name: str, found: Dict[str, Optional[Distribution]],
                      needs: Dict[str, Set[str]]) -> dict:
    """Make a CycloneDX bill of materials of what is installed.

    Args:
        name (str): The package that it is about.
        found (Dict[str, Optional[Distribution]]): See :func:`required`.
        needs (Dict[str, Set[str]]): See :func:`required`.

    Returns:
        dict: The bill, of JSON's types.
    """
    refs = {
        key: f'pkg:pypi/{key}@{quote(package.version)}'
        for key, package in sorted(found.items()) if package is not None
    }

    def component(key: str) -> dict:
        said = license_of(found[key])
        if 'License-Expression' in found[key].metadata:
            licenses: List[dict] = [dict(expression=said)]
        else:
            licenses = [] if said == UNKNOWN else [dict(license=dict(name=said))]
        return {
            'type': 'library', 'bom-ref': refs[key], 'purl': refs[key], 'name': key,
            'version': found[key].version, 'licenses': licenses
        }

    name = canonicalize_name(name)
    return dict(
        bomFormat='CycloneDX', specVersion='1.6', version=1,
        metadata=dict(component=component(name)),
        components=[component(key) for key in refs if key != name],
        dependencies=[
            dict(ref=ref, dependsOn=sorted(refs[n] for n in needs[key] if n in refs))
            for key, ref in refs.items()
        ])


def main() -> None:
    """Run the tool."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--package', default='mmseg_semflow')
    parser.add_argument(
        '--extras',
        default='metrics,features,corruptions,parquet,export,lora,demo,comparison',
        help='those that count besides what is required; default: %(default)s')
    parser.add_argument(
        '--bom', action='store_true', help='a CycloneDX bill of materials, as JSON')
    args = parser.parse_args()
    found, needs = required(args.package, [e for e in args.extras.split(',') if e])
    if found[canonicalize_name(args.package)] is None:
        sys.exit(f'error: {args.package} is not installed')
    if args.bom:
        print(json.dumps(bill_of_materials(args.package, found, needs), indent=1))
    else:
        for name, package in sorted(found.items()):
            if package is not None:
                print(f'{name}\t{package.version}\t{license_of(package)}')
    missing = sorted(name for name, package in found.items() if package is None)
    if missing:
        print(f'not installed: {", ".join(missing)}', file=sys.stderr)


if __name__ == '__main__':
    main()
