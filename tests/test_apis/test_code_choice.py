"""Codes that survive uncertain masks."""

import numpy as np
import pytest
import torch

from mmseg_semflow.apis import code_choice
from mmseg_semflow.apis.code_choice import CodeChoice, widest_levels
from tiny import runner_cfg


@pytest.fixture
def choice(shared_street, tmp_path, monkeypatch):
    monkeypatch.setattr(code_choice, 'POINTS', 2000)
    return CodeChoice(runner_cfg(shared_street, tmp_path / 'work'), 4)


def test_certain_points_keep_their_labels(choice):
    """And halves of two colours go to the class that lies between them."""
    truth = torch.tensor([0, 1, 2, 3, 4])
    nothing = torch.zeros(5, 3)
    choice._points = [(torch.eye(5), truth, nothing)]
    assert (choice.score(range(5), 2, 200) == 100).all()
    # Class 1 is the middle of 0 and 2, as 13 is of 0 and 26.
    halves = torch.tensor([[0.5, 0, 0.5, 0, 0]])
    choice._points = [(halves, truth[:1], nothing[:1])]
    assert choice.score([0, 13, 26, 1, 2], 3, 127)[0] == 0
    near = torch.tensor([[0.6, 0, 0.4, 0, 0]])
    choice._points = [(near, truth[:1], nothing[:1])]
    assert choice.score([0, 18, 26, 6, 2], 3, 127)[0] == 100


def test_the_search_parts_what_doubt_would_mix(choice):
    start = [0, 13, 26, 1, 2]
    before = choice.score(start, 3, 127).nanmean()
    codes = choice.search(3, 127, 150, start)
    assert len(set(codes)) == 5 and max(codes) < 27
    assert choice.score(codes, 3, 127).nanmean() > before + 1


def test_the_same_seed_finds_the_same_codes(shared_street, tmp_path, monkeypatch):
    monkeypatch.setattr(code_choice, 'POINTS', 400)
    cfg = runner_cfg(shared_street, tmp_path / 'work')
    first, second, third = (
        CodeChoice(cfg, 2, seed).search(3, 127, 20) for seed in (0, 0, 1))
    assert first == second != third


def test_blur_keeps_shares():
    shares = torch.rand(3, 20, 30)
    shares = code_choice._normalised(shares)
    found = code_choice._blurred(shares, 2.)
    np.testing.assert_allclose(found.sum(0), 1, rtol=1e-5)
    impulse = torch.zeros(1, 41, 41)
    impulse[0, 20, 20] = 1
    wide = code_choice._blurred(impulse, 3.)[0]
    place = torch.arange(41.) - 20
    assert (wide.sum(0) * place.square()).sum().sqrt() == pytest.approx(3, rel=0.03)


def test_too_few_colours(choice):
    with pytest.raises(ValueError, match='make 1 colours, too few for 5 classes'):
        choice.search(1, 127)


@pytest.mark.parametrize('num_classes, levels', [
    (2, (2, 254)), (8, (2, 254)), (9, (3, 127)), (11, (3, 127)), (27, (3, 127)),
    (28, (4, 84)), (171, (6, 50))
])
def test_widest_levels(num_classes, levels):
    assert widest_levels(num_classes) == levels
    divisions, spacing = levels
    assert (divisions - 1) * spacing < 255 and divisions**3 >= num_classes
    assert widest_levels(num_classes, 6, 50) == (6, 50)


def test_the_tool_checks_its_codes_by_the_autoencoder(
        call_tool, shared_files, monkeypatch):
    """Which loses nothing here: all labels come back."""
    monkeypatch.setattr(code_choice, 'POINTS', 400)
    said = call_tool(
        'choose_codes.py', shared_files[0], '--num-images', 2, '--num-exchanges', 3,
        '--num-round-trips', 2)
    _, _, table = said.partition('labels after the autoencoder:')
    rows = [line for line in table.splitlines()
            if line.startswith(('| Eq. 7', '| config', '| chosen'))]
    assert len(rows) == 3 and all(row.count('100') >= 2 for row in rows)
    assert 'divisions=2, spacing=254, codes=(' in said
    without = call_tool(
        'choose_codes.py', shared_files[0], '--num-images', 2, '--num-exchanges', 3,
        '--num-round-trips', 0)
    assert 'autoencoder' not in without


def test_wrong_levels(call_tool, shared_files):
    assert 'divisions must be >= 2, but got 1' in call_tool(
        'choose_codes.py', shared_files[0], '--divisions', 1, fails=True)
