"""What the page shows and reads, as strings: labels as colours, HTML, PNGs."""

import base64
import html
import io
from pathlib import Path
from typing import Optional, Sequence, Tuple

import cv2
import numpy as np

from mmseg_semflow.synthesis.pictures import picture_size

FILES = Path(__file__).parent


def brush_colours(palette: Sequence[Sequence[int]]) -> np.ndarray:
    """Make one colour for each class and one for void, all distinct.

    Some palettes, such as that of ADE20K, give two classes one colour; later
    ones are shifted a little.

    Args:
        palette (Sequence[Sequence[int]]): RGB colours of the classes.

    Returns:
        np.ndarray: RGB, uint8, shape (num_classes + 1, 3); the last is void's,
        black if no class has it.
    """
    colours = {}
    for red, green, blue in palette:
        while (red, green, blue) in colours:
            blue = (blue + 9) % 256
        colours[red, green, blue] = None
    void = next((v, v, v) for v in (0, 255, *range(1, 255))
                if (v, v, v) not in colours)
    return np.array([*colours, void], np.uint8)


def paint(label_map: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Colour labels.

    Args:
        label_map (np.ndarray): Labels, shape (H, W); all beyond the classes
            are void.
        colours (np.ndarray): See :func:`brush_colours`.

    Returns:
        np.ndarray: RGB, uint8, shape (H, W, 3).
    """
    return colours[np.clip(label_map, 0, len(colours) - 1)]


def read_paint(picture: np.ndarray, colours: np.ndarray,
               ignore_index: int) -> np.ndarray:
    """Label pixels by their nearest colour.

    Args:
        picture (np.ndarray): RGB, uint8, shape (H, W, 3).
        colours (np.ndarray): See :func:`brush_colours`.
        ignore_index (int): Label of void.

    Returns:
        np.ndarray: Labels, int64, shape (H, W).
    """
    found, index = np.unique(
        picture.reshape(-1, 3) @ np.array([65536, 256, 1]), return_inverse=True)
    found = np.stack([found >> 16, found >> 8 & 255, found & 255], 1)
    distances = np.stack([
        np.square(found - colour).sum(1) for colour in colours.astype(np.int64)])
    labels = distances.argmin(0)
    labels[labels == len(colours) - 1] = ignore_index
    return labels[index].reshape(picture.shape[:2])


def to_url(picture: np.ndarray) -> str:
    """Write RGB pixels as the data URL of a PNG."""
    data = cv2.imencode('.png', picture[..., ::-1])[1].tobytes()
    return f'data:image/png;base64,{base64.b64encode(data).decode()}'


def from_url(url: str, max_side: int = 4096) -> np.ndarray:
    """Read RGB pixels from the data URL of a PNG.

    Args:
        url (str): The URL.
        max_side (int): How many rows and columns there may be. Defaults to 4096.

    Raises:
        ValueError: If it is none, or larger.
    """
    try:
        data = base64.b64decode(url.partition('base64,')[2], validate=True)
        size = picture_size(io.BytesIO(data))
    except ValueError as error:
        raise ValueError('there is no mask on the canvas') from error
    check_size('the mask on the canvas', size, max_side)
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise ValueError('there is no mask on the canvas')
    return picture[..., ::-1]


def check_size(name: str, size: Tuple[int, int], max_side: int) -> None:
    """Raise a ValueError if a picture is of more rows or columns."""
    height, width = size
    if max(height, width) > max_side:
        raise ValueError(f'{name} must have at most {max_side} rows and columns, but '
                         f'has {height} and {width}')


def overlay(image: np.ndarray, label_map: np.ndarray, colours: np.ndarray,
            entropy: Optional[np.ndarray] = None) -> str:
    """Lay coloured labels over an image, as HTML; the page sets the opacity.

    Args:
        image (np.ndarray): RGB, uint8, shape (H, W, 3).
        label_map (np.ndarray): Labels, shape (H, W).
        colours (np.ndarray): See :func:`brush_colours`.
        entropy (np.ndarray, optional): What lies there in their place if the page
            is asked to, RGB, uint8, shape (H, W, 3). Defaults to None, nothing.
    """
    pictures = dict(Image=image, Segmentation=paint(label_map, colours))
    if entropy is not None:
        pictures['Entropy'] = entropy
    layers = ''.join(
        f'<img src="{to_url(picture)}" alt="{name}" class="{name.lower()}">'
        for name, picture in pictures.items())
    return f'<div class="layers">{layers}</div>'


def legend(label_map: np.ndarray, classes: Sequence[str],
           colours: np.ndarray) -> str:
    """List the classes of a label map as HTML, the largest first."""
    labels, counts = np.unique(label_map, return_counts=True)
    chips = [
        _chip(classes[labels[i]], colours[labels[i]],
              f'<small>{counts[i] / label_map.size:.1%}</small>')
        for i in np.argsort(-counts, kind='stable') if labels[i] < len(classes)
    ]
    return f'<div class="chips">{"".join(chips)}</div>'


def strip(pictures: np.ndarray, times: Sequence[float]) -> str:
    """Put the pictures of a trajectory in a row, as HTML.

    Args:
        pictures (np.ndarray): RGB, uint8, shape (N + 1, H, W, 3).
        times (Sequence[float]): Their flow times, N + 1 of them.

    Returns:
        str: The row; large pictures are shrunk.
    """
    scale = min(1, 256 / pictures.shape[1])
    figures = [
        '<figure><img src="{}" alt=""><figcaption>t = {:.2f}</figcaption>'
        '</figure>'.format(
            to_url(cv2.resize(picture, None, fx=scale, fy=scale,
                              interpolation=cv2.INTER_AREA)), t)
        for picture, t in zip(pictures, times, strict=True)
    ]
    # It scrolls, by keys as well.
    return ('<div class="strip" role="group" aria-label="Trajectory" tabindex="0">'
            f'{"".join(figures)}</div>')


def painter(classes: Sequence[str], colours: np.ndarray) -> str:
    """Make the canvas with its tools, as HTML; ``page.js`` makes it work.

    Args:
        classes (Sequence[str]): Names of the classes.
        colours (np.ndarray): See :func:`brush_colours`.
    """
    chips = ''.join(
        _chip(name, colour, tag='button',
              attributes=f'data-colour="{_css(colour)}" '
              f'aria-pressed="{str(i == 0).lower()}"')
        for i, (name, colour) in enumerate(
            zip([*classes, 'void'], colours, strict=True)))
    return (FILES / 'painter.html').read_text().replace('{classes}', chips)


def _css(colour: np.ndarray) -> str:
    return '#{:02x}{:02x}{:02x}'.format(*colour)


def _chip(name: str, colour: np.ndarray, text: str = '', tag: str = 'span',
          attributes: str = '') -> str:
    return (f'<{tag} class="chip" {attributes}><i style="background:'
            f'{_css(colour)}"></i>{html.escape(name)}{text}</{tag}>')
