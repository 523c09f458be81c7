"""What the page shows and reads: labels as colours, HTML, data URLs."""

import shutil
import subprocess

import numpy as np
import pytest

from mmseg_semflow.webapp.markup import (
    FILES,
    brush_colours,
    from_url,
    legend,
    overlay,
    paint,
    painter,
    read_paint,
    strip,
    to_url,
)
from tiny import META

COLOURS = brush_colours(META['palette'])


def test_brush_colours_are_distinct():
    palette = [[0, 0, 0], [9, 9, 9], [9, 9, 9], [9, 9, 18], [255, 255, 255]]
    colours = brush_colours(palette)
    assert len(np.unique(colours, axis=0)) == len(colours) == 6
    np.testing.assert_array_equal(colours[[0, 1, 4]], np.array(palette)[[0, 1, 4]])
    assert brush_colours([[9, 9, 9]])[-1].tolist() == [0, 0, 0]


def test_paint_and_back():
    labels = np.random.default_rng(0).integers(0, 6, (7, 9))
    labels[labels == 5] = 255
    picture = paint(labels, COLOURS)
    np.testing.assert_array_equal(picture[labels == 2], [META['palette'][2]] * (
        labels == 2).sum())
    blurred = np.clip(picture.astype(int) + [7, 5, -3], 0, 255).astype(np.uint8)
    for pixels in (picture, blurred, from_url(to_url(picture))):
        np.testing.assert_array_equal(read_paint(pixels, COLOURS, 255), labels)


@pytest.mark.parametrize('url', ['', 'data:image/png;base64,', 'base64,AAAA'])
def test_no_mask(url):
    with pytest.raises(ValueError, match='there is no mask on the canvas'):
        from_url(url)


def test_overlay_and_legend():
    image = np.full((2, 4, 3), 100, np.uint8)
    labels = np.array([[0, 1, 1, 1], [2, 2, 1, 1]])
    entropy = np.full((2, 4, 3), 7, np.uint8)
    urls = overlay(image, labels, COLOURS, entropy).split('"')[3::6]
    pictures = (image, paint(labels, COLOURS), entropy)
    for url, picture in zip(urls, pictures, strict=False):
        np.testing.assert_array_equal(from_url(url), picture)
    names = [f'{name}<' for name in META['classes']]
    text = legend(labels, names, COLOURS)
    places = [text.index(part) for part in (
        'b&lt;<small>62.5%', 'c&lt;<small>25.0%', 'a&lt;<small>12.5%')]
    assert places == sorted(places)
    assert '#320000' in text and 'd&lt;' not in text


def test_strip_names_the_times():
    text = strip(np.zeros((3, 512, 4, 3), np.uint8), [1., 0.5, 0.])
    times = [text.index(f't = {t}<') for t in ('1.00', '0.50', '0.00')]
    assert times == sorted(times)
    url = text.partition('src="')[2].partition('"')[0]
    assert from_url(url).shape == (256, 2, 3)
    assert 'tabindex="0"' in text and 'aria-label' in text  # it scrolls


def test_painter_has_every_brush():
    text = painter(['road', 'a<b', *'cde'], COLOURS)
    assert text.count('data-colour="#') == 6
    assert '#320000' in text and 'a&lt;b' in text and '>void<' in text
    assert text.count('aria-pressed="true"') == 2  # one colour, one tool


def test_javascript_is_well_formed():
    node = shutil.which('node')
    if node is None:
        pytest.skip('there is no node on the path')
    done = subprocess.run(
        [node, '--check', FILES / 'page.js'], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
