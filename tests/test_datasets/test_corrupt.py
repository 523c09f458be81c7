"""Corrupted test pictures: those of the package, functions of the file's name."""

import colorsys
import random
import zlib

import numpy as np
import pytest
from mmseg.registry import TRANSFORMS

from mmseg_semflow.datasets.seeded import CORRUPTION, seeded_generators
from mmseg_semflow.datasets.transforms.corrupt import CORRUPTIONS, darken


def picture():
    """A street-like picture, blue (BGR) above and green below."""
    image = np.zeros((48, 64, 3), np.uint8)
    image[:24] = 200, 120, 40
    image[24:] = 30, 150, 60
    return image


def corrupt(name, severity=3, path='a/0.png', image=None):
    transform = TRANSFORMS.build(
        dict(type='Corrupt', corruption=name, severity=severity))
    image = picture() if image is None else image
    before = image.copy()
    found = transform(dict(img=image, img_path=path))['img']
    assert np.array_equal(image, before)
    assert found.dtype == np.uint8 and found.shape == before.shape
    return found


@pytest.mark.parametrize('name', CORRUPTIONS)
def test_equals_the_package_on_rgb(name):
    package = pytest.importorskip('imagecorruptions')
    found = corrupt(name)
    with seeded_generators(CORRUPTION, zlib.crc32(b'0.png')):
        expected = package.corrupt(
            picture()[..., ::-1].copy(), corruption_name=name, severity=3)
    assert np.array_equal(found, expected.astype(np.uint8)[..., ::-1])
    # Flat areas have nothing to blur, and are not changed by a few.
    if name in ('gaussian_noise', 'snow', 'fog', 'frost', 'brightness', 'contrast'):
        assert not np.array_equal(found, picture())


def test_depends_on_the_name_alone():
    pytest.importorskip('imagecorruptions')
    random.seed(1)
    np.random.seed(1)
    state = np.random.get_state()[1].tolist(), random.getstate()
    first = corrupt('gaussian_noise')
    assert (np.random.get_state()[1].tolist(), random.getstate()) == state
    np.random.seed(2)
    assert np.array_equal(corrupt('gaussian_noise', path='b/0.png'), first)
    assert not np.array_equal(corrupt('gaussian_noise', path='a/1.png'), first)


def test_darkness_lowers_the_value_alone():
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    image[0, 0] = 10, 20, 30  # becomes black
    found = corrupt('darkness', 2, image=image)
    assert np.array_equal(found, darken(image, 0.2))
    value = image.max(-1).astype(int)
    assert np.array_equal(found.max(-1), np.maximum(value - 51, 0))
    assert (found[0, 0] == 0).all()
    for old, new in zip(image.reshape(-1, 3), found.reshape(-1, 3), strict=True):
        if new.max() > 100:
            hue, saturation, _ = colorsys.rgb_to_hsv(*old / 255)
            rounded = colorsys.rgb_to_hsv(*new / 255)
            # To half a level of a channel.
            assert rounded[1] == pytest.approx(saturation, abs=0.01)
            if saturation > 0.3:
                gap = abs(rounded[0] - hue)
                assert min(gap, 1 - gap) < 0.01


@pytest.mark.parametrize('name, severity, reason', [
    ('rain', 3, r"corruption must be of .*fog.*, darkness, but got 'rain'"),
    ('gaussian_blur', 3, r"but got 'gaussian_blur'"),
    ('fog', 0, r'severity must be of 1 to 5, but got 0'),
    ('darkness', 6, r'severity must be of 1 to 5, but got 6'),
])
def test_what_there_is_not(name, severity, reason):
    with pytest.raises(ValueError, match=reason):
        corrupt(name, severity)
