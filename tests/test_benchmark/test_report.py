"""Parts in their order, within their limits, and what is left when they end."""

import os
import signal
import sys
import time
from multiprocessing import get_context

import pytest

from mmseg_semflow.benchmark.report import (
    BEGUN,
    DONE,
    FAILED,
    NOT_MEASURED,
    STOPPED,
    Part,
    PartResults,
    check_folder,
    end_with_parent,
    run_parts,
    to_page,
)

QUICK = 'pass'
LONG = 'import time; time.sleep(60)'
BROKEN = 'import sys; print("one"); sys.exit("no such device")'


def run(out, codes, seconds=None, limit=20.):
    """Run parts that are programs; return their states and the order of running."""
    order, pages = [], []
    parts = [Part(name, name, limit, None) for name in codes]

    def command(part):
        order.append(part.name)
        return [sys.executable, '-S', '-c', codes[part.name]]

    run_parts(parts, out, command, lambda: pages.append(len(order)), seconds)
    # A page after every part.
    assert pages == list(range(1, len(order) + 1))
    return {name: PartResults(out, name).status for name in codes}, order


def test_parts_run_in_order_and_failures_do_not_end_it(tmp_path):
    codes = dict(b=QUICK, a=BROKEN, c=LONG, d=QUICK)
    states, order = run(tmp_path, codes, limit=1.5)
    assert order == ['b', 'a', 'c', 'd']
    assert states == dict(b=DONE, a=FAILED, c=STOPPED, d=DONE)
    assert PartResults(tmp_path, 'a').found['note'] == (
        'ended with code 1: no such device')
    assert PartResults(tmp_path, 'c').found['note'] == 'stopped at its limit of 1.5 s'
    assert 1.5 <= PartResults(tmp_path, 'c').found['seconds'] < 30
    # Next time what was not begun comes first, and what is done does not come.
    states, order = run(tmp_path, dict(codes, c=QUICK, e=QUICK))
    assert order == ['e', 'a', 'c']
    assert states == dict(b=DONE, a=FAILED, c=DONE, d=DONE, e=DONE)


def test_the_next_call_goes_on_where_time_ended(tmp_path):
    codes = dict(a=LONG, b=QUICK)
    states, order = run(tmp_path, codes, seconds=1.)
    assert order == ['a'] and states == dict(a=BEGUN, b=None)
    assert 'the command ended' in PartResults(tmp_path, 'a').found['note']
    states, order = run(tmp_path, dict(codes, a=QUICK))
    assert order == ['a', 'b'] and states == dict(a=DONE, b=DONE)


@pytest.mark.process
def test_what_a_part_started_ends_with_it(tmp_path):
    """Its child holds the writing end of a pipe for as long as it lives."""
    fifo = tmp_path / 'fifo'
    os.mkfifo(fifo)
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    child = f'import time; f = open("{fifo}", "w", 1); print(1, file=f); {LONG}'
    part = (f'import subprocess, sys; subprocess.Popen([sys.executable, "-S", "-c", '
            f'{child!r}]); {LONG}')
    states, _ = run(tmp_path, dict(a=part), limit=5.)
    assert states == dict(a=STOPPED)
    assert os.read(reading, 9) == b'1\n'
    # It would be a BlockingIOError if somebody could still write.
    assert os.read(reading, 9) == b''
    os.close(reading)


@pytest.mark.process
def test_a_part_ends_with_its_parent():
    """Both are forked; the pipe ends when the last of them has."""
    reading, writing = os.pipe()
    context = get_context('fork')

    def part():
        os.setsid()
        end_with_parent(0.05)
        os.write(writing, b'.')
        time.sleep(60)

    def command():
        os.close(reading)
        context.Process(target=part).start()
        time.sleep(60)

    process = context.Process(target=command)
    process.start()
    os.close(writing)
    assert os.read(reading, 1) == b'.'
    os.kill(process.pid, signal.SIGKILL)
    start = time.monotonic()
    assert os.read(reading, 1) == b'' and time.monotonic() - start < 30
    process.join()
    os.close(reading)


def rows(**row):
    return lambda: dict(steps=[row])


def fail():
    raise ZeroDivisionError('by\nnought')


def test_a_case_that_fails_is_noted_and_the_others_are_measured(tmp_path):
    results = PartResults(tmp_path, 'step')
    for name, way in dict(a=rows(x=1), b=fail, c=rows(x=3)).items():
        results.measure(name, way)
    results.update(status=FAILED, note='failed: b')
    found = PartResults(tmp_path, 'step')
    assert found.found == results.found and found.failures == ['b']
    assert found.found['cases']['b']['error'] == 'ZeroDivisionError: by\nnought'
    assert found.rows('steps') == [dict(case='a', x=1), dict(case='c', x=3)]
    # What is there is not measured again, what failed is.
    found.measure('a', fail)
    found.measure('b', rows(x=2))
    assert not found.failures and len(found.rows('steps')) == 3


def test_a_killed_part_goes_on_with_its_next_case(tmp_path):

    def first():
        results = PartResults(tmp_path, 'step')
        results.measure('a', rows(x=1))
        results.measure('b', lambda: os.kill(os.getpid(), signal.SIGKILL))

    process = get_context('fork').Process(target=first)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    results = PartResults(tmp_path, 'step')
    assert list(results.found['cases']) == ['a']
    results.measure('a', fail)
    results.measure('b', rows(x=2))
    assert results.rows('steps') == [dict(case='a', x=1), dict(case='b', x=2)]


def test_failed_cases_make_a_failed_part(tmp_path):
    PartResults(tmp_path, 'a').measure('one', fail)
    states, _ = run(tmp_path, dict(a=QUICK))
    assert states == dict(a=FAILED)
    assert PartResults(tmp_path, 'a').found['note'] == 'failed: one'


def test_the_page_has_all_parts_and_says_what_was_not_measured(tmp_path):
    parts = [Part(name, f'Part {name}', 1, None) for name in 'abc']
    results = PartResults(tmp_path, 'b')
    results.measure('one', rows(what='a|b', seconds=1.23456))
    results.measure('two', fail)
    results.update(status=FAILED, note='failed: two')
    page = to_page(parts, tmp_path, '# Measured')
    assert page == f'''# Measured

## 1. Part a

{NOT_MEASURED}

## 2. Part b

0 s: failed: two.

Steps:

| case | what | seconds |
| --- | --- | --- |
| one | a\\|b | 1.235 |

- two: ZeroDivisionError: by nought

## 3. Part c

{NOT_MEASURED}
'''


def test_figures_of_another_device_are_not_mixed(tmp_path):
    check_folder(tmp_path, dict(device='one', torch='2'))
    check_folder(tmp_path, dict(device='one', torch='2'))
    with pytest.raises(ValueError, match="has figures of device 'one', but this is "
                       "'other': give another --out"):
        check_folder(tmp_path, dict(device='other', torch='2'))
