"""Masks from files, pictures to files."""

import os

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from fuzzing import bombs
from mmseg_semflow.flow import PseudoMaskCodec
from mmseg_semflow.synthesis.pictures import (
    has_colours,
    list_masks,
    picture_size,
    read_label_map,
    read_note,
    read_record,
    read_rgb,
    rgb_of,
    write_picture,
)
from tiny import CODEC

CODEC5 = PseudoMaskCodec(**CODEC)
PALETTE = [[10, 20, 30], [255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]]
LABELS = np.array([[0, 1, 2], [3, 4, 255]], np.uint8)


def coloured(labels):
    colours = np.zeros((256, 3), np.uint8)
    colours[:5] = PALETTE
    return colours[labels]


def test_gray_indexed_and_coloured_masks_are_the_same(tmp_path):
    cv2.imwrite(str(tmp_path / 'gray.png'), LABELS)
    indexed = Image.fromarray(LABELS, 'P')
    indexed.putpalette(sum(PALETTE, []) + [0] * 3 * 251)
    indexed.save(tmp_path / 'indexed.png')
    Image.fromarray(coloured(LABELS)).save(tmp_path / 'rgb.png')
    Image.fromarray(coloured(LABELS)).convert('RGBA').save(tmp_path / 'rgba.png')
    expected = torch.from_numpy(LABELS.astype(np.int64))
    for name in ('gray', 'indexed', 'rgb', 'rgba'):
        palette = PALETTE if name.startswith('rgb') else None
        found = read_label_map(tmp_path / f'{name}.png', CODEC5, palette)
        assert torch.equal(found, expected)
    assert torch.equal(read_label_map(LABELS, CODEC5), expected)
    assert torch.equal(read_label_map(coloured(LABELS), CODEC5, PALETTE), expected)


def test_any_picture_as_rgb(tmp_path):
    pixels = coloured(LABELS)
    for mode in ('RGB', 'RGBA', 'P', 'L', '1', 'I;16'):
        picture = Image.fromarray(pixels).convert(
            mode, palette=Image.Palette.ADAPTIVE)
        picture.save(tmp_path / 'a.png')
        assert read_rgb(tmp_path / 'a.png').shape == (2, 3, 3)
        assert has_colours(tmp_path / 'a.png') == (mode[0] in 'RP')
        if mode[0] in 'RP':
            np.testing.assert_array_equal(read_rgb(tmp_path / 'a.png'), pixels)
    exif = Image.Exif()
    for orientation in range(10):  # of which 0 and 9 are none
        exif[0x0112] = orientation
        Image.fromarray(pixels).save(tmp_path / 'a.png', exif=exif)
        np.testing.assert_array_equal(
            read_rgb(tmp_path / 'a.png'),
            np.array(ImageOps.exif_transpose(Image.open(tmp_path / 'a.png'))))
    exif[0x0112] = 6  # the camera was turned to the left
    Image.fromarray(pixels).save(tmp_path / 'a.png', exif=exif)
    np.testing.assert_array_equal(
        read_rgb(tmp_path / 'a.png'), np.rot90(pixels, -1))
    # Of the type of texts, which nothing can be, and cut within its table.
    for damaged in (b'MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x01\0\x06\0\0',
                    b'MM\0*\0\0\0\x08\0\x09\x01'):
        picture = Image.fromarray(pixels)
        picture.info['exif'] = b'Exif\0\0' + damaged
        np.testing.assert_array_equal(rgb_of(picture), pixels)
    (tmp_path / 'a.png').write_bytes(b'text')
    for read in (read_rgb, has_colours):
        with pytest.raises(ValueError, match='a.png cannot be read as a picture'):
            read(tmp_path / 'a.png')


def test_reduce_zero_label():
    found = read_label_map(
        np.array([[0, 1, 5, 255]], np.uint8), CODEC5, reduce_zero_label=True)
    assert found.tolist() == [[255, 0, 4, 255]]
    with pytest.raises(ValueError, match=r'labels \[6\]: .* in \[0, 5\], with'):
        read_label_map(
            np.array([[0, 6]], np.uint8), CODEC5, reduce_zero_label=True)


def test_modes_of_png(tmp_path):
    """A colour table means labels, unless the mask is said to be coloured."""
    labels = LABELS % 255
    expected = torch.from_numpy(labels.astype(np.int64))
    rgb = Image.fromarray(coloured(labels))
    rgb.quantize(16).save(tmp_path / 'quantized.png')
    found = read_label_map(tmp_path / 'quantized.png', CODEC5, PALETTE)
    assert torch.equal(found, expected)
    gray = Image.fromarray(labels)
    gray.convert('LA').save(tmp_path / 'alpha.png')
    Image.fromarray(labels.astype(np.uint16)).save(tmp_path / 'sixteen.png')
    for name in ('alpha', 'sixteen'):
        found = read_label_map(tmp_path / f'{name}.png', CODEC5)
        assert torch.equal(found, expected), name
    Image.fromarray(labels.astype(np.float32)).save(tmp_path / 'float.tif')
    with pytest.raises(ValueError, match='float.tif must hold whole numbers'):
        read_label_map(tmp_path / 'float.tif', CODEC5)
    with pytest.raises(ValueError, match=r'shape .* got \(2, 3, 1\)'):
        read_label_map(labels[..., None], CODEC5, PALETTE)


def test_a_picture_too_large_is_named(tmp_path, monkeypatch):
    Image.fromarray(LABELS).save(tmp_path / 'a.png')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 2)
    with pytest.raises(ValueError, match='a.png cannot be read as a picture'):
        read_label_map(tmp_path / 'a.png', CODEC5)


def test_notes_of_pictures(tmp_path):
    picture = np.zeros((4, 4, 3), np.uint8)
    write_picture(tmp_path / 'a.png', picture, 'some \u00e4 text')
    write_picture(tmp_path / 'b.png', picture)
    assert read_note(tmp_path / 'a.png') == 'some \u00e4 text'
    assert read_note(tmp_path / 'b.png') == ''
    (tmp_path / 'c.png').write_bytes(b'broken')
    assert read_note(tmp_path / 'c.png') == ''


def test_unknown_label_names_file_and_value(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), LABELS + 3)
    with pytest.raises(ValueError, match=r'a.png has the labels \[5, 6, 7\].*below'):
        read_label_map(tmp_path / 'a.png', CODEC5)


def test_unknown_colour_names_file_and_value(tmp_path):
    pixels = coloured(LABELS)
    pixels[0, 0] = 1, 2, 3
    Image.fromarray(pixels).save(tmp_path / 'a.png')
    with pytest.raises(ValueError, match=r'a.png has 1 colours .*\(1, 2, 3\)'):
        read_label_map(tmp_path / 'a.png', CODEC5, PALETTE)


def test_a_label_map_with_a_palette(tmp_path):
    """It is not taken for what it is, silently: it may be the wrong file."""
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / 'a.png')
    with pytest.raises(ValueError, match='a.png is a label map.* leave it out'):
        read_label_map(tmp_path / 'a.png', CODEC5, PALETTE)


def test_coloured_mask_without_palette(tmp_path):
    Image.fromarray(coloured(LABELS)).save(tmp_path / 'a.png')
    with pytest.raises(ValueError, match='a.png is a coloured .* give a palette'):
        read_label_map(tmp_path / 'a.png', CODEC5)


@pytest.mark.parametrize('content', [b'', b'no picture', None])
def test_unreadable_mask_is_named(tmp_path, content):
    if content is None:
        content = cv2.imencode('.png', LABELS.repeat(50, 0))[1].tobytes()[:60]
    (tmp_path / 'a.png').write_bytes(content)
    with pytest.raises(ValueError, match='a.png cannot be read as a picture'):
        read_label_map(tmp_path / 'a.png', CODEC5)


def test_masks_of_a_folder_a_file_and_nothing(tmp_path):
    (tmp_path / 'b').mkdir()
    with pytest.raises(ValueError, match=f'{tmp_path} holds no masks'):
        list_masks(tmp_path)
    for name in ('b/c.png', 'a.PNG', 'x.txt'):
        (tmp_path / name).touch()
    assert list_masks(tmp_path) == [tmp_path / 'a.PNG', tmp_path / 'b/c.png']
    assert list_masks(tmp_path / 'b/c.png') == [tmp_path / 'b/c.png']
    with pytest.raises(FileNotFoundError, match='no such file or folder'):
        list_masks(tmp_path / 'none')


def test_written_picture_is_rgb_and_exact(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    write_picture(tmp_path / 'new/a.png', picture)
    with Image.open(tmp_path / 'new/a.png') as found:
        np.testing.assert_array_equal(np.array(found), picture)
    assert os.listdir(tmp_path / 'new') == ['a.png']


@pytest.mark.parametrize('name', sorted(bombs()))
def test_a_bomb_is_refused_by_its_head(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(bombs()[name])
    for read in (read_rgb, picture_size, has_colours,
                 lambda path: read_label_map(path, CODEC5)):
        with pytest.raises(ValueError, match=f'{name} cannot be read as a picture: '
                           'Image size .900000000 pixels. exceeds limit'):
            read(path)


def test_records_of_pictures(tmp_path):
    path = tmp_path / 'a.png'
    for note, record in (('{"a": 1}', dict(a=1)), ('', {}), ('[1]', {}), ('{"a"', {}),
                         ('null', {})):
        write_picture(path, np.zeros((2, 3, 3), np.uint8), note)
        assert read_record(path) == record
    path.write_bytes(b'none')
    assert read_record(path) == {}


@pytest.mark.parametrize('palette', [
    5, 'text', None, [[1, 2]], [[1, 2, 256]], [[1, 2, 0.5]], [None], ['abc'],
    [[True, 0, 0]]])
def test_what_is_no_palette(palette):
    if palette is None:
        palette = {}
    with pytest.raises(ValueError, match='the palette of the mask must be a list'):
        read_label_map(np.zeros((2, 3, 3), np.uint8), CODEC5, palette)
