"""Pictures of the path between image and mask."""

import io
from pathlib import Path
from typing import Union

import numpy as np
from PIL import Image

from mmseg_semflow.files import write_bytes

from .pictures import write_picture

NUM_SHOWN = 8  # frames of the strip, first and last included, at most
FRAME_MILLISECONDS = 120
END_MILLISECONDS = 1000


def write_trajectory(frames: np.ndarray, path: Union[str, Path]) -> None:
    """Write a trajectory as a strip and as an animation.

    Args:
        frames (np.ndarray): RGB, uint8, shape (N + 1, H, W, 3).
        path (str | Path): Without suffix: ``.png`` and ``.gif`` are written.
    """
    chosen = np.linspace(0, len(frames) - 1, min(NUM_SHOWN, len(frames)))
    write_picture(
        Path(f'{path}.png'),
        np.concatenate(frames[chosen.round().astype(int)], 1))
    pictures = [Image.fromarray(frame) for frame in frames]
    durations = [FRAME_MILLISECONDS] * len(frames)
    durations[0] = durations[-1] = END_MILLISECONDS
    buffer = io.BytesIO()
    pictures[0].save(
        buffer,
        'gif',
        save_all=True,
        append_images=pictures[1:],
        duration=durations,
        loop=0)
    write_bytes(Path(f'{path}.gif'), buffer.getvalue())
