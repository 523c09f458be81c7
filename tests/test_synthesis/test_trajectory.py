"""Strips and animations of a trajectory."""

import numpy as np
import pytest
from PIL import Image

from mmseg_semflow.synthesis import trajectory
from mmseg_semflow.synthesis.trajectory import write_trajectory


@pytest.fixture
def frames():
    return np.random.default_rng(0).integers(0, 256, (11, 24, 32, 3), np.uint8)


def read(path):
    with Image.open(path) as picture:
        return np.array(picture.convert('RGB'))


def test_strip_and_animation(frames, tmp_path):
    """Eight frames from the first to the last, each with its time below."""
    write_trajectory(frames, tmp_path / 'new/a', np.linspace(0, 1, 11))
    strip = read(tmp_path / 'new/a.png')
    assert strip.shape[1] == 8 * 32
    for place, number in enumerate([0, 1, 3, 4, 6, 7, 9, 10]):
        found = strip[:24, 32 * place:32 * (place + 1)]
        np.testing.assert_array_equal(found, frames[number])
    captions = strip[24:].reshape(-1, 8, 32, 3).swapaxes(0, 1)
    assert all(caption.min() < 100 < 250 < caption.max() for caption in captions)
    with Image.open(tmp_path / 'new/a.gif') as animation:
        assert animation.n_frames == 11


def test_times_stand_below(frames, tmp_path, monkeypatch):
    written = []
    caption = trajectory._caption
    monkeypatch.setattr(
        trajectory, '_caption',
        lambda text, width: written.append(text) or caption(text, width))
    write_trajectory(frames[:3], tmp_path / 'a', [1., 0.25, 0.])
    assert written == ['t=1.00', 't=0.25', 't=0.00']


@pytest.mark.parametrize('width', [16, 32, 600])
def test_captions_fit_below_their_frames(width):
    """Whole, and as readable as there is room for."""
    line = trajectory._caption('t=0.45', width)
    ink = (line < 200).any(2)
    columns, rows = np.flatnonzero(ink.any(0)), np.flatnonzero(ink.any(1))
    assert line.shape[1] == width and line.shape[0] < 40
    assert 0 < columns[0] and columns[-1] < width - 1
    assert 0 < rows[0] and rows[-1] < len(line) - 1
    assert len(rows) >= min(width / 8, 9)
