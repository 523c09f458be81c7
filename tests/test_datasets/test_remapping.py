"""Label maps by colours and by numbers become labels 0 to K - 1."""

import numpy as np
import pytest
from PIL import Image

from mmseg_semflow.datasets.remapping import read_table, remap_label_maps

COLOURS = 'road,128,64,128\ncar,0,0,142\n\nvoid,0,0,0\nroad,250,170,160\n'
NUMBERS = 'sky, 7\nvoid, 255\ntree, 200\n'


@pytest.fixture
def table(tmp_path):
    def write(text):
        path = tmp_path / 'classes.csv'
        path.write_text(text)
        return path
    return write


def maps(folder, labels, suffix='.png', mode='L', palette=None):
    folder.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels)
    if palette is not None:
        image = Image.fromarray(labels, 'P')
        image.putpalette(palette)
    image.save(folder / f'a{suffix}')
    return folder


def labels_of(path):
    with Image.open(path) as image:
        assert image.mode == 'L'
        return np.array(image)


def test_table(table):
    classes, labels = read_table(table(COLOURS))
    assert classes == ['road', 'car']
    assert labels == {(128, 64, 128): 0, (0, 0, 142): 1, (0, 0, 0): 255,
                      (250, 170, 160): 0}
    assert read_table(table('\ufeff' + COLOURS)) == (classes, labels)
    assert read_table(table(NUMBERS)) == (
        ['sky', 'tree'], {(7, ): 0, (255, ): 255, (200, ): 1})


@pytest.mark.parametrize('suffix', ['.png', '.bmp', '.tif'])
def test_colours(suffix, table, tmp_path):
    labels = np.random.default_rng(0).integers(0, 4, (5, 7))
    colours = np.array(
        [[128, 64, 128], [0, 0, 142], [0, 0, 0], [250, 170, 160]], np.uint8)
    maps(tmp_path / 'raw/train/x', colours[labels], suffix)
    assert remap_label_maps(
        tmp_path / 'raw', table(COLOURS), tmp_path / 'out') == ['road', 'car']
    found = labels_of(tmp_path / 'out/train/x/a.png')
    assert np.array_equal(found, np.array([0, 1, 255, 0])[labels])


@pytest.mark.parametrize('palette', [None, list(range(256)) * 3])
def test_numbers(palette, table, tmp_path):
    labels = np.random.default_rng(0).choice([7, 200, 255], (4, 6)).astype(np.uint8)
    maps(tmp_path / 'raw', labels, palette=palette)
    remap_label_maps(tmp_path / 'raw', table(NUMBERS), tmp_path / 'out')
    found = labels_of(tmp_path / 'out/a.png')
    assert np.array_equal(
        found, np.select([labels == 7, labels == 200], [0, 1], 255))


def test_it_goes_on(table, tmp_path):
    """What is there stays, and one that fails leaves nothing under its name."""
    maps(tmp_path / 'raw/1', np.full((2, 2), 7, np.uint8))
    maps(tmp_path / 'raw/2', np.full((2, 2), 9, np.uint8))
    arguments = tmp_path / 'raw', table(NUMBERS), tmp_path / 'out'
    with pytest.raises(ValueError, match=r'raw/2/a\.png has 1 values that '
                       r'.*classes\.csv does not name, for example 9'):
        remap_label_maps(*arguments)
    first = tmp_path / 'out/1/a.png'
    assert list((tmp_path / 'out').rglob('*.png')) == [first]
    kept = first.stat().st_mtime_ns
    maps(tmp_path / 'raw/2', np.full((2, 2), 200, np.uint8))
    remap_label_maps(*arguments)
    assert first.stat().st_mtime_ns == kept
    assert (labels_of(tmp_path / 'out/2/a.png') == 1).all()


@pytest.mark.parametrize('text, reason', [
    ('sky,1,2\n', r'line 1: must be class,red,green,blue or class,number.*sky,1,2'),
    ('sky,1\ntree,1,2,3\n', 'line 2: must be .* all lines alike'),
    ('sky,256\n', 'line 1: must be .*0 to 255, but got sky,256'),
    ('sky,red\n', 'line 1: must be'),
    ('sky,1\ntree,1\n', 'line 2: 1 stands twice'),
    (',1\n', 'line 1: must be'),
    ('void,1\n', 'must name 1 to 255 classes, but has 0'),
])
def test_tables_that_are_none(text, reason, table):
    with pytest.raises(ValueError, match=f'classes.csv.*{reason}'):
        read_table(table(text))


def test_folders_that_hold_no_label_maps(table, tmp_path):
    numbers = table(NUMBERS)
    with pytest.raises(ValueError, match='there is no .*raw'):
        remap_label_maps(tmp_path / 'raw', numbers, tmp_path / 'out')
    (tmp_path / 'raw').mkdir()
    with pytest.raises(ValueError, match=r'raw must hold label maps, \.png.* none'):
        remap_label_maps(tmp_path / 'raw', numbers, tmp_path / 'out')
    for suffix in ('.png', '.bmp'):
        maps(tmp_path / 'raw', np.full((2, 2), 7, np.uint8), suffix)
    with pytest.raises(ValueError, match=r'2 files of .*raw would become .*a\.png'):
        remap_label_maps(tmp_path / 'raw', numbers, tmp_path / 'out')


def test_label_maps_of_another_kind(table, tmp_path):
    maps(tmp_path / 'raw', np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(ValueError, match=r'a\.png must have one channel of 8 bits, '
                       r'as .*classes\.csv has numbers, but its shape is \(2, 2, 3\)'):
        remap_label_maps(tmp_path / 'raw', table(NUMBERS), tmp_path / 'out')
    (tmp_path / 'raw/a.png').write_bytes(b'no picture')
    with pytest.raises(ValueError, match=r'a\.png cannot be read as a picture'):
        remap_label_maps(tmp_path / 'raw', table(COLOURS), tmp_path / 'out')
