"""A fixed part of the damaged inputs, and the bounds of what one may take."""

import os
import re

import pytest

import fuzzing
from fuzz_targets import make_targets
from fuzzing import Finding, Fuzzer, Target, limited_memory

# About 20 seconds on an idle core.
COUNT = int(os.environ.get('SEMFLOW_FUZZ_INPUTS', 1200))


@pytest.fixture(scope='module')
def targets(tmp_path_factory):
    return make_targets(tmp_path_factory.mktemp('corpus'))


def test_every_input_is_read_rightly_or_refused_in_words(targets, tmp_path):
    fuzzer = Fuzzer(targets, 0, tmp_path)
    with limited_memory():
        for number in range(COUNT):
            fuzzer.try_input(number)
    assert not fuzzer.findings, fuzzer.report()
    # What is whole is read, and of all kinds something is refused; but a picture
    # without a note has none.
    for name in targets:
        assert fuzzer.counts[name, 'read'], name
        assert fuzzer.counts[name, 'refused'] or name == 'note', name


def crash(path):
    raise KeyError(path.name)


def silent(path):
    raise ValueError('this is wrong')


def littering(path):
    path.with_name('half').touch()


@pytest.mark.parametrize('read, what', [
    (crash, 'KeyError'), (silent, 'no file in: this is wrong'),
    (littering, r'left .*half'),
    (lambda path: b'x' * 300 * 2**20, 'took .* MB')])
def test_what_is_looked_for_is_found(read, what, tmp_path, monkeypatch):
    monkeypatch.setattr(fuzzing, 'MEGABYTES', 200)
    fuzzer = Fuzzer({'one': Target({'a': {'a.png': b'data'}}, read)}, 0, tmp_path)
    fuzzer.try_input(0)
    (found, ) = fuzzer.findings
    assert isinstance(found, Finding) and found[:3] == (0, 'one', 'a')
    assert re.search(what, found.what)
