"""Pictures beside each other."""

import io
from typing import Dict, Optional, Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from mmseg_semflow.pixels import paint

from .pictures import Palette

Colour = Sequence[int]


def to_png(figure: Figure, dpi: int = 100) -> bytes:
    """Lay out a figure of matplotlib, which is closed, as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=dpi)
    plt.close(figure)
    return buffer.getvalue()


def to_grid(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Lay pictures beside and below each other, pixel by pixel.

    Args:
        rows (Sequence[Sequence[np.ndarray]]): RGB pictures, uint8, shape
            (H, W, 3), of one height in each row.

    Returns:
        np.ndarray: RGB, uint8, shape (H', W', 3). Rows that are narrower than
        the widest end in black.
    """
    lines = [np.concatenate(row, 1) for row in rows]
    width = max(line.shape[1] for line in lines)
    return np.concatenate([
        np.pad(line, ((0, 0), (0, width - line.shape[1]), (0, 0)))
        for line in lines
    ])


def sample_grid(shown: Sequence[dict], palette: Palette) -> np.ndarray:
    """Lay out mask, real image and samples, one row each.

    Args:
        shown (Sequence[dict]): Results of :meth:`Synthesizer.evaluate`, all
            of the same number of samples.
        palette (Sequence[Sequence[int]]): RGB colour of each class; void is
            black.

    Returns:
        np.ndarray: RGB, uint8, shape (H, W, 3).
    """
    return to_grid([[
        paint(fields['gt_label_map'], palette).numpy(),
        *(image.permute(1, 2, 0).cpu().numpy()
          for image in (fields['gt_img'], *fields['samples']))
    ] for fields in shown])


def to_gallery(rows: Dict[str, Sequence[np.ndarray]],
               legend: Optional[Dict[str, Colour]] = None) -> bytes:
    """Show a grid of pictures with names and a legend, as PNG.

    Args:
        rows (Dict[str, Sequence[np.ndarray]]): RGB pictures of any size,
            uint8, shape (H, W, 3), as many in every row, by the name that
            stands beside the row. The first ones set the shape of the cells.
        legend (Dict[str, Sequence[int]], optional): RGB colours to explain
            below, by name. Defaults to None.

    Returns:
        bytes: The file.
    """
    first = next(iter(rows.values()))
    height, width = first[0].shape[:2]
    figure, axes = plt.subplots(
        len(rows),
        len(first),
        figsize=(2.4 * len(first) + 1.2,
                 (2.4 * height / width + 0.1) * len(rows) + 0.4),
        squeeze=False)
    for line, (name, pictures) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(
            name, rotation=0, ha='right', va='center', fontsize=9)
        for axis, picture in zip(line, pictures, strict=True):
            axis.imshow(picture, interpolation='nearest', aspect='auto')
            axis.set(xticks=[], yticks=[])
    if legend:
        figure.legend(
            handles=[
                Patch(facecolor=np.array(colour) / 255, label=name)
                for name, colour in legend.items()
            ],
            loc='lower center',
            ncols=8,
            fontsize=9,
            frameon=False)
    lines = -(-len(legend or ()) // 8)
    figure.tight_layout(
        rect=(0, 0.22 * lines / figure.get_figheight(), 1, 1), pad=0.4)
    return to_png(figure, dpi=80)
