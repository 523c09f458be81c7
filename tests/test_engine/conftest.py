"""Fixtures of trainings."""

import pytest

from runs import build_runner, quick_runners  # noqa: F401
from tiny import write_street


@pytest.fixture
def run(street, tmp_path):
    """Build a runner on the ``street`` folder, changed by options."""

    def build(work_dir='work', **options):
        return build_runner(street, tmp_path / work_dir, **options)

    return build


@pytest.fixture(scope='session')
def shared_street(tmp_path_factory):
    """A ``street`` folder that no test changes."""
    return write_street(tmp_path_factory.mktemp('shared') / 'street')
