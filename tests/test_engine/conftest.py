"""Fixtures of trainings."""

import pytest

from runs import build_runner


@pytest.fixture
def run(street, tmp_path):
    """Build a runner on the ``street`` folder, changed by options."""

    def build(work_dir='work', **options):
        return build_runner(street, tmp_path / work_dir, **options)

    return build
