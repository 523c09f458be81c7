"""Pictures beside each other."""

import io

import numpy as np
from PIL import Image

from mmseg_semflow.synthesis.gallery import to_gallery, to_grid


def test_grid_keeps_every_pixel():
    rng = np.random.default_rng(0)
    rows = [[rng.integers(1, 256, (height, width, 3), np.uint8)
             for width in widths]
            for height, widths in ((3, (4, 5, 2)), (2, (6, 1)))]
    grid = to_grid(rows)
    assert grid.shape == (5, 11, 3) and grid.dtype == np.uint8
    np.testing.assert_array_equal(grid[:3, 4:9], rows[0][1])
    np.testing.assert_array_equal(grid[3:, :6], rows[1][0])
    np.testing.assert_array_equal(grid[3:, 6:7], rows[1][1])
    assert not grid[3:, 7:].any()


def test_gallery_shows_its_pictures_and_colours():
    """Each picture covers its cell with its colour; the legend has its own."""
    def plain(*colour):
        return np.full((4, 6, 3), colour, np.uint8)

    rows = dict(one=[plain(200, 0, 0), plain(0, 200, 0)],
                two=[plain(0, 0, 200), plain(9, 99, 199)])
    with Image.open(io.BytesIO(to_gallery(rows, dict(sky=[50, 60, 70])))) as file:
        shown = np.array(file.convert('RGB')).reshape(-1, 3)
    colours, counts = np.unique(shown, axis=0, return_counts=True)
    counts = dict(zip(map(tuple, colours.tolist()), counts.tolist(), strict=True))
    areas = [counts[tuple(picture[0, 0])]
             for pictures in rows.values() for picture in pictures]
    assert min(areas) > 0.9 * max(areas) > 0.1 * len(shown)
    assert 0 < counts[50, 60, 70] < 0.01 * len(shown)
