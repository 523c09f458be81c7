"""Pages of the site that are made: of files of the repository, and of docstrings."""

import ast
import re
import textwrap
from pathlib import Path

try:
    from griffe import Extension
except ImportError:
    Extension = object

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    'index.md': 'README.md',
    'contributing.md': 'CONTRIBUTING.md',
    'changelog.md': 'CHANGELOG.md'
}
# A page for each: the public names of the room.
ROOMS = ('flow', 'networks', 'models', 'synthesis', 'datasets', 'engine', 'evaluation')
# Those that no room imports.
OTHERS = dict(
    models=('segmentors.SemFlow', 'data_preprocessor.SemFlowDataPreProcessor',
            'generators.SemFlowGenerator'),
    export=('pipeline.SemFlowPipeline', 'segmentor.ExportedSegmentor'),
    apis=('inferencer.SemFlowInferencer', ))


def on_files(files, config):
    """Add them: no copies lie in docs."""
    from mkdocs.structure.files import File
    made = {name: _as_page((ROOT / source).read_text())
            for name, source in PAGES.items()}
    made |= {f'api/{room}.md': _reference(room) for room in {*ROOMS, *OTHERS}}
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown, page, config, files):
    """Let links to the repository's pages lead to those of the site."""
    for name, source in PAGES.items():
        markdown = markdown.replace(f'](../{source}', f']({name}')
    return markdown


def _reference(room):
    tree = ast.parse((ROOT / f'mmseg_semflow/{room}/__init__.py').read_text())
    return '\n\n'.join([f'# {room}', as_markdown(ast.get_docstring(tree)), *(
        f'::: mmseg_semflow.{room}.{name}' for name in names_of(room, tree))])


def names_of(room, tree):
    """List the public names of a room: __all__, and others."""
    listed = [name for node in tree.body
              if isinstance(node, ast.Assign) and node.targets[0].id == '__all__'
              for name in ast.literal_eval(node.value)]
    return [*(listed if room in ROOMS else ()), *OTHERS.get(room, ())]


def _as_page(text):
    """Let links begin in docs; what lies elsewhere is named and not linked."""
    for name, source in PAGES.items():
        text = text.replace(f']({source}', f']({name}')
    text = text.replace('](docs/', '](')
    return re.sub(
        r'(?<!!)\[([^\]]+)\]\(((?!https?:|#)[^)]+)\)',
        lambda link: link[0] if (ROOT / 'docs' / link[2].split('#')[0]).exists()
        or link[2].split('#')[0] in PAGES else f'{link[1]} (`{link[2]}`)', text)


class Docstrings(Extension):
    """Turn what docstrings have of reStructuredText into Markdown.

    Formulas stay TeX, in blocks: the site loads nothing that could typeset them.
    """

    def on_instance(self, *, obj, **kwargs):
        """Change a docstring before it is parsed."""
        if obj.docstring is not None and not obj.is_alias:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text):
    """Convert roles, ``.. math::`` and ``.. code-block::``."""
    text = re.sub(r':math:`([^`]+)`', r'`\1`', text)
    text = re.sub(r':(?:\w+:)?\w+:`~?(?:[\w.]+\.)?(\w+)`', r'`\1`', text)
    return re.sub(
        r'^([ \t]*)\.\. (?:math|code-block)::'
        r'(.*(?:\n(?:\1[ \t]+\S.*|[ \t]*(?=\n|\Z)))*)',
        _as_block, text, flags=re.M)


def _as_block(found):
    indent, body = found[1], found[2]
    first, _, rest = body.partition('\n')
    lines = [] if first.strip() in ('', 'none', 'python') else [first.strip()]
    lines += textwrap.dedent(rest).strip('\n').splitlines()
    block = '\n'.join(['```text', *lines, '```', ''])
    return textwrap.indent(block, indent)
