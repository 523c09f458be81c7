"""What the package is made of, as a list and as a bill of materials."""

import json
from email.message import Message
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import pytest

import list_licenses

OWN = 'pkg:pypi/own@1'


def package(version, requires=(), **metadata):
    meta = Message()
    for key, value in metadata.items():
        meta[key.replace('_', '-')] = value
    return SimpleNamespace(version=version, requires=list(requires), metadata=meta)


INSTALLED = {
    'own': package('1', ['Part_A>=1', 'gone', 'part-b; extra == "more"',
                         'never; extra == "other"'], License_Expression='Apache-2.0'),
    'part-a': package('2+cpu', ['part-b[deep]', 'own'], License='MIT\nand its text'),
    'part-b': package('3', ['deep; extra == "deep"', 'mmsegmentation'],
                      Classifier='License :: OSI Approved :: BSD License'),
    'deep': package('4'),
    'mmsegmentation': package('5', License='Apache'),
    'mmcv-lite': package('6', License='Apache'),
    'never': package('7'),
}


@pytest.fixture
def listed(monkeypatch):
    """Packages that exist in this test alone, and what the tool says of them."""
    def distribution(name):
        if name not in INSTALLED:
            raise PackageNotFoundError(name)
        return INSTALLED[name]

    monkeypatch.setattr(list_licenses, 'distribution', distribution)

    def run(*args):
        monkeypatch.setattr('sys.argv', [
            'list_licenses.py', '--package', 'own', '--extras', 'more', *args])
        list_licenses.main()

    return run


def test_all_that_is_required_and_installed(listed, capsys):
    listed()
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        'deep\t4\tUNKNOWN', 'mmcv-lite\t6\tApache', 'mmsegmentation\t5\tApache',
        'own\t1\tApache-2.0', 'part-a\t2+cpu\tMIT', 'part-b\t3\tBSD License']
    assert said.err == 'not installed: gone\n'


def test_bill_of_materials(listed, capsys):
    listed('--bom')
    bill = json.loads(capsys.readouterr().out)
    assert (bill['bomFormat'], bill['specVersion']) == ('CycloneDX', '1.6')
    assert bill['metadata']['component']['purl'] == OWN
    parts = {part['name']: part for part in bill['components']}
    assert sorted(parts) == ['deep', 'mmcv-lite', 'mmsegmentation', 'part-a', 'part-b']
    assert parts['part-a'] == {
        'type': 'library', 'name': 'part-a', 'version': '2+cpu',
        'purl': 'pkg:pypi/part-a@2%2Bcpu', 'bom-ref': 'pkg:pypi/part-a@2%2Bcpu',
        'licenses': [dict(license=dict(name='MIT'))]}
    assert bill['metadata']['component']['licenses'] == [dict(expression='Apache-2.0')]
    assert parts['deep']['licenses'] == []
    edges = {part['ref']: part['dependsOn'] for part in bill['dependencies']}
    assert edges == {
        OWN: ['pkg:pypi/part-a@2%2Bcpu', 'pkg:pypi/part-b@3'],
        'pkg:pypi/part-a@2%2Bcpu': [OWN, 'pkg:pypi/part-b@3'],
        'pkg:pypi/part-b@3': ['pkg:pypi/deep@4', 'pkg:pypi/mmsegmentation@5'],
        'pkg:pypi/mmsegmentation@5': ['pkg:pypi/mmcv-lite@6'],
        'pkg:pypi/mmcv-lite@6': [], 'pkg:pypi/deep@4': []}
