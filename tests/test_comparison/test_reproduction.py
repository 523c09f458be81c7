"""docs/paper.md and the tool that runs it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS as ROOT_MODELS
from shipped import COMPARED, ROOT, SHORT_NAMES, load, on_disk, shrink
from tool_calls import TOOLS, call_tool  # noqa: F401

from layouts import LAYOUTS
from mmseg_semflow.comparison.reproduction import Reproduction, names_in, read_page

PAGE = ROOT / 'docs/paper.md'
SECTIONS = read_page(PAGE.read_text())
COMMANDS = [(section, command) for section in SECTIONS
            for command in section.commands]


def test_every_table_and_figure_has_its_section():
    titles = ' '.join(section.title for section in SECTIONS)
    numbers = [int(number) for number in re.findall(r'\b\d+\b', titles)]
    assert sorted(numbers) == sorted([1, 2, *range(1, 13)])  # tables and figures
    for section in SECTIONS:
        assert section.commands or section.title == 'Figure 1'


@pytest.mark.parametrize('section, command', COMMANDS)
def test_a_command_names_what_is_there(section, command):
    """Its configs are shipped ones, and it writes to its section's folder."""
    names = names_in(command)
    assert names and not (
        set(names) - {*SHORT_NAMES, *(n.split('/')[1] for n in COMPARED)})
    for folder in re.findall(r'\$OUT/(\w+)', command):
        assert folder == section.folder
    assert '$OUT/' in command
    assert (ROOT / command.split()[1]).is_file()


def test_rows_of_the_tables():
    """The page's tables and commands name the same configs."""
    for title in ('Table 1', 'Table 2'):
        section = next(s for s in SECTIONS if s.title == title)
        wanted = {n for command in section.commands for n in names_in(command)}
        listed = {
            name for line in section.lines if line.startswith('|')
            for name in re.findall(r'`(\w+_(?:coco_stuff164k|celebamask_hq))`', line)}
        assert listed <= wanted


FAKE = '''# A page

```bash
echo never
```

## Table 1

Text with a [link](results.md#there) and [another](https://a.b).

```bash
python made.py $(of semflow_toy) \\
    $OUT/table_1
python fails.py $(weights semflow_toy)
```

## Figure 1

```bash
python made.py $(of semflow_toy semflow_camvid) $OUT/figure_1
```
'''


@pytest.fixture
def root(tmp_path):
    """A clone with a page, two configs and what its commands run."""
    root = tmp_path / 'a clone'
    (root / 'docs').mkdir(parents=True)
    (root / 'docs/paper.md').write_text(FAKE)
    (root / 'configs').mkdir()
    for name in ('semflow_toy', 'semflow_camvid'):
        (root / f'configs/{name}.py').write_text(f'''
test_dataloader = dict(dataset=dict(
    type='CamVidDataset', data_root='data/{name}', data_prefix=dict(
        img_path='img_dir/val', seg_map_path='ann_dir/val'), pipeline=[]))
''')
        (root / f'{name}.pth').write_bytes(b'weights')
    LAYOUTS['camvid'](root / 'data/semflow_toy')
    (root / 'made.py').write_text('''
import pathlib, sys
print('called with', sys.argv[1:])
folder = pathlib.Path(sys.argv[-1], 'row')
folder.mkdir(parents=True, exist_ok=True)
(folder / 'segmentation.csv').write_text('method,mIoU,note\\na,12.3456,\\n')
(folder / 'comparison.md').write_text('## A\\n| a |\\n8 test images.\\n')
(folder / 'a b.png').write_bytes(b'')
''')
    (root / 'fails.py').write_text('raise SystemExit(3)')
    return root


def reproduce(root, *names):
    checkpoints = {name: root / f'{name}.pth' for name in names}
    made = Reproduction(root / 'docs/paper.md', checkpoints, root / 'out')
    return [state for _, _, state in made.run()]


def test_what_is_there_runs_once(root, capfd):
    states = reproduce(root, 'semflow_toy')
    assert re.fullmatch(r'done in \d+ s', states[0])
    assert states[1] == (f'failed (exit status 3), see {root}/out/table_1/log.txt')
    assert states[2] == 'left out: no checkpoint of semflow_camvid is named'
    config, checkpoint = root / 'configs/semflow_toy.py', root / 'semflow_toy.pth'
    arguments = [str(config), str(checkpoint), f'{root}/out/table_1']
    told = f'called with {arguments}'
    assert told in capfd.readouterr().out
    assert (root / 'out/table_1/log.txt').read_text() == f'{told}\n'
    page = (root / 'out/paper.md').read_text()
    table = '| from | method | mIoU |\n| --- | --- | --- |\n| row | a | 12.35 |\n'
    assert table in page
    assert 'row: 8 test images.' in page
    assert '![table_1/row/a b.png](table_1/row/a%20b.png)' in page
    assert '[link](../docs/results.md#there) and [another](https://a.b)' in page
    assert 'exit status 3' in page and 'no checkpoint of semflow_camvid' in page
    # Again: what failed is tried again, what is done is not.
    assert reproduce(root, 'semflow_toy')[1:] == states[1:]
    assert 'called with' not in capfd.readouterr().out
    # Other weights are another result.
    checkpoint.write_bytes(b'other weights')
    reproduce(root, 'semflow_toy')
    assert 'called with' in capfd.readouterr().out


def test_weights_of_a_metric_that_are_missing(root, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(root))
    page = root / 'docs/paper.md'
    page.write_text(FAKE.replace(
        'python made.py $(of semflow_toy) ',
        'python made.py --metrics SampleDiversity PerceptualDistance -- '
        '$(of semflow_toy) '))
    state = reproduce(root, 'semflow_toy')[0]
    assert 'left out: PerceptualDistance is left out: ' in state


def test_what_is_missing_is_told(root):
    state = reproduce(root, 'semflow_toy', 'semflow_camvid')[2]
    assert state.startswith('left out: CamVidDataset finds no pair ')
    assert f"data_root='{root}/data/semflow_camvid'" in state
    with pytest.raises(FileNotFoundError, match=r'no checkpoint .*none.pth for se'):
        Reproduction(
            root / 'docs/paper.md', dict(semflow_toy=root / 'none.pth'), 'out')
    with pytest.raises(ValueError, match=(
            "no command for 'semflow'; it has some for semflow_camvid, semflow_toy")):
        Reproduction(root / 'docs/paper.md', dict(semflow='a'), 'out')


@pytest.mark.process
def test_the_tool(root):
    """It reads the page of its own clone, and a list of checkpoints."""
    (root / 'tools').symlink_to(TOOLS)
    (root / 'list.txt').write_text(f'semflow_toy={root}/semflow_toy.pth\n')
    done = subprocess.run(
        [sys.executable, str(root / 'tools/reproduce.py'), '@list.txt'], cwd=root,
        text=True, capture_output=True, timeout=300)
    assert done.returncode == 1
    assert done.stderr.endswith('failed: 1; the others are done\n')
    assert f'wrote {root}/work_dirs/paper/paper.md' in done.stdout
    assert 'left out: no checkpoint of semflow_camvid is named' in done.stdout




@pytest.fixture(scope='module')
def clone(tmp_path_factory):
    """The shipped configs, shrunk, with data in the datasets' layout and weights."""
    root = tmp_path_factory.mktemp('clone')
    for name in ('cityscapes', 'coco_stuff164k', 'celebamask_hq'):
        LAYOUTS[name](root / 'data' / name)
    # What the page shows of two datasets.
    for old, new in (
            ('coco_stuff164k/images/val2017/000000000000.jpg', '000000000139.jpg'),
            ('coco_stuff164k/annotations/val2017/000000000000_labelTrainIds.png',
             '000000000139_labelTrainIds.png'),
            ('cityscapes/leftImg8bit/val/frankfurt/'
             'frankfurt_000000_000019_leftImg8bit.png',
             'frankfurt_000000_000294_leftImg8bit.png'),
            ('cityscapes/gtFine/val/frankfurt/'
             'frankfurt_000000_000019_gtFine_labelTrainIds.png',
             'frankfurt_000000_000294_gtFine_labelTrainIds.png')):
        path = root / 'data' / old
        path.rename(path.with_name(new))
    (root / 'configs/comparison').mkdir(parents=True)
    torch.manual_seed(0)
    used = {n for _, command in COMMANDS for n in names_in(command)}
    used |= {Path(c.split()[2]).stem for _, c in COMMANDS
             if c.split()[2].startswith('configs/')}
    for name in sorted(used):
        short = name if name in SHORT_NAMES else f'comparison/{name}'
        cfg = on_disk(shrink(load(short)), 'data', root / 'work')
        cfg.log_level = 'INFO'
        cfg.experiment_name = name
        data = cfg.test_dataloader.dataset
        for dataset in ('cityscapes', 'coco_stuff164k', 'celebamask_hq'):
            if dataset in name:
                data.data_root = str(root / 'data' / dataset)
        cfg.test_pipeline = data.pipeline
        cfg.dump(root / f'configs/{short}.py')
        with ROOT_MODELS.switch_scope_and_registry(cfg.default_scope) as models:
            model = models.build(cfg.model)
        (root / f'work_dirs/{name}').mkdir(parents=True)
        torch.save(dict(state_dict=model.state_dict(), meta={}),
                   root / f'work_dirs/{name}/iter_1.pth')
    return root


def quick(command):
    """Make as many settings of fewer steps of a command."""
    return re.sub(
        r'(--steps)((?: \d+)+)',
        lambda found: f'{found[1]} ' + ' '.join(
            str(1 + i) for i in range(len(found[2].split()))), command)


@pytest.mark.process
@pytest.mark.parametrize('section, command', COMMANDS)
def test_a_command_runs(section, command, clone, call_tool, monkeypatch):  # noqa: F811
    """In this process; the shell fills in what the page's functions give."""
    pytest.importorskip('mmagic')
    functions = PAGE.read_text().split('OUT=work_dirs/paper\n')[1].split('```')[0]
    script = f'set -euo pipefail\nOUT=out\n{functions}\n' \
             f"python() {{ printf '%s\\n' \"$@\"; }}\n{quick(command)}"
    monkeypatch.chdir(clone)
    tool, *arguments = subprocess.run(
        ['bash', '-c', script], cwd=clone, text=True, capture_output=True,
        check=True).stdout.splitlines()
    assert len(arguments) > len(command.split()) - 8
    if 'tools/test.py' in tool:
        arguments.append(f'visualizer.name=v{abs(hash(command))}')
        arguments.append(f'experiment_name=e{abs(hash(command))}')
    call_tool(Path(tool).name, *arguments)
    folder = Path(re.search(r'\$OUT(/\S+)', command)[1].lstrip('/'))
    made = {path.suffix for path in Path('out', folder).rglob('*')}
    assert '.png' in made
    assert '.csv' in made or 'compare.py' not in command
