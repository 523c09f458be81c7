"""docs/tutorial.md, command by command, on a folder like the one it describes."""

import re
import shlex
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmseg_semflow.datasets.toy_street import PALETTE, write_toy_street
from tiny import UNET

ROOT = Path(__file__).parents[2]
TUTORIAL = (ROOT / 'docs/tutorial.md').read_text()
COMMANDS = [
    shlex.split(line) for block in re.findall(r'```bash\n(.*?)```', TUTORIAL, re.S)
    for line in block.replace('\\\n', ' ').splitlines()
]
# The network and the iterations, and nothing else.
SHRUNK = f'''
unet = dict(_delete_=True, **{UNET | dict(in_channels=48, out_channels=48)})
model['semflow']['network'] = dict(unet=unet)
train_cfg = dict(max_iters=2, val_interval=2)
default_hooks = dict(checkpoint=dict(interval=2))
custom_hooks = []
'''


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """A folder with raw pictures, colours of classes, and our configs."""
    root = tmp_path_factory.mktemp('tutorial')
    shutil.copytree(ROOT / 'configs', root / 'configs')
    write_toy_street(root / 'street', num_train=4, num_val=2, size=(96, 128))
    for split in ('train', 'val'):
        (root / 'raw/labels' / split).mkdir(parents=True)
        shutil.copytree(
            root / 'street/img_dir' / split, root / 'raw/images' / split)
        for path in (root / 'street/ann_dir' / split).iterdir():
            labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            colours = np.array(PALETTE, np.uint8)[labels]
            colours[:2] = 0  # void
            cv2.imwrite(
                str(root / 'raw/labels' / split / path.name), colours[..., ::-1])
    for name, text in re.findall(
            r'<!-- file: (\S+) -->\n```\w*\n(.*?)```', TUTORIAL, re.S):
        (root / name).write_text(text)
    return root


@pytest.fixture
def call(place, call_tool, monkeypatch):
    monkeypatch.chdir(place)

    def call(command):
        program, *args = command
        if program == 'cp':
            assert args[0] == '-r'
            return shutil.copytree(*args[1:])
        assert program == 'python' and args[0].startswith('tools/')
        return call_tool(args[0].removeprefix('tools/'), *args[1:])

    return call


def test_all_files_are_named():
    assert len(COMMANDS) == 7
    assert TUTORIAL.count('<!-- file: ') == 2


@pytest.mark.process
def test_the_commands_in_their_order(call, place):
    said = {}
    for number, command in enumerate(COMMANDS):
        if command[1] == 'tools/train.py':
            with (place / 'configs/semflow_mine.py').open('a') as file:
                file.write(SHRUNK)
        if command[1] == 'tools/choose_codes.py':
            command += ['--num-exchanges', '5']
        command = [part.replace('iter_2600', 'iter_2') for part in command]
        said[number] = call(command)
    config = (place / 'configs/semflow_mine.py').read_text()
    printed = re.search(r'classes = (\(.*\))', said[0])[1]
    assert re.sub(r'\s+', ' ', printed) in re.sub(r'\s+', ' ', config)
    for split, count in dict(train=4, val=2).items():
        found = sorted((place / 'data/mine/ann_dir' / split).iterdir())
        assert len(found) == count
        labels = cv2.imread(str(found[0]), cv2.IMREAD_UNCHANGED)
        assert (labels[:2] == 255).all() and labels[2:].max() < 8
    codes = re.search(r'codes=\((.*)\)', said[3])[1]
    assert len(set(codes.split(','))) == 8
    work_dir = place / 'work_dirs/semflow_mine'
    measured = {path.relative_to(work_dir).parts[0] for path in work_dir.rglob('*.json')
                if '"mIoU": ' in path.read_text()}
    assert len(measured) == 2  # of the training, and of the test
    pictures = list((place / 'work_dirs/pictures').rglob('*.png'))
    assert len([path for path in pictures if path.parent.name != 'pictures'
                or re.search(r'_\d', path.name)]) == 2 * 3
