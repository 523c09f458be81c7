"""The guard of the tests: no test reaches another machine, unnoticed or not."""

import socket
import urllib.request
from contextlib import suppress

import pytest


@pytest.mark.parametrize('reach', [
    lambda: socket.create_connection(('192.0.2.1', 80), timeout=1),
    lambda: socket.create_connection(('huggingface.co', 443), timeout=1),
    lambda: urllib.request.urlopen('http://example.org', timeout=1)])
def test_other_machines_are_refused_and_noted(reach, reached):
    with pytest.raises(OSError, match='may not'):
        reach()
    assert reached
    reached.clear()


def test_a_library_that_carries_on_is_noted(reached):
    with suppress(OSError):
        socket.create_connection(('192.0.2.1', 80), timeout=1)
    assert reached == ['192.0.2.1']
    reached.clear()


def test_this_machine_is_reached(reached):
    with socket.create_server(('127.0.0.1', 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()
    assert not reached
