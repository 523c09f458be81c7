"""The site builds without a warning, and is complete."""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location('hooks', ROOT / 'docs/hooks.py')
hooks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(hooks)


def test_every_page_has_its_place():
    nav = (ROOT / 'mkdocs.yml').read_text().split('nav:')[1]
    named = set(re.findall(r': (\S+\.md)', nav))
    pages = {path.relative_to(ROOT / 'docs').as_posix()
             for path in (ROOT / 'docs').rglob('*.md')}
    assert named == pages | hooks.PAGES.keys() | {
        f'api/{room}.md' for room in {*hooks.ROOMS, *hooks.OTHERS}}


def test_docstrings_become_markdown():
    assert hooks.as_markdown("""Sum up.

With :math:`d_s` of :func:`paired` and :class:`~a.b.Mean`

.. math:: x = y

Args:
    a: As

        .. math::
            a
              b

        Then.
""") == """Sum up.

With `d_s` of `paired` and `Mean`

```text
x = y
```

Args:
    a: As

        ```text
        a
          b
        ```

        Then.
"""


@pytest.mark.process
def test_it_builds(tmp_path):
    pytest.importorskip('mkdocs')
    done = subprocess.run(
        [sys.executable, '-m', 'mkdocs', 'build', '-q', '-d', str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for room in {*hooks.ROOMS, *hooks.OTHERS}:
        text = (tmp_path / f'api/{room}.html').read_text()
        tree = ast.parse((ROOT / f'mmseg_semflow/{room}/__init__.py').read_text())
        for name in hooks.names_of(room, tree):
            assert f'id="mmseg_semflow.{room}.{name}"' in text
    for page in tmp_path.rglob('*.html'):
        text = page.read_text()
        assert 'math::' not in text and ':class:' not in text
        # Reading needs no network.
        assert not re.search(r'<(?:script|img)[^>]*src="?https?:', text)
        assert not re.search(r'<link[^>]*rel="?stylesheet[^>]*https?:', text)
