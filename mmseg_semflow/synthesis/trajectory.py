"""Pictures of the path between image and mask."""

import io
from pathlib import Path
from typing import Sequence, Union

import cv2
import numpy as np
from PIL import Image

from mmseg_semflow.files import write_bytes

from .gallery import to_grid
from .pictures import write_picture

NUM_SHOWN = 8  # frames of the strip, first and last included, at most
FRAME_MILLISECONDS = 120
END_MILLISECONDS = 1000
FONT = cv2.FONT_HERSHEY_SIMPLEX


def write_trajectory(frames: np.ndarray, path: Union[str, Path],
                     times: Sequence[float]) -> None:
    """Write a trajectory as a strip and as an animation.

    Below each frame of the strip stands its flow time t.

    Args:
        frames (np.ndarray): RGB, uint8, shape (N + 1, H, W, 3).
        path (str | Path): Without suffix: ``.png`` and ``.gif`` are written.
        times (Sequence[float]): Flow times of the frames, N + 1 of them.
    """
    chosen = np.linspace(0, len(frames) - 1, min(NUM_SHOWN, len(frames)))
    chosen = chosen.round().astype(int)
    width = frames.shape[2]
    write_picture(
        Path(f'{path}.png'),
        to_grid([
            frames[chosen],
            [_caption(f't={times[i]:.2f}', width) for i in chosen]
        ]))
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


def _caption(text: str, width: int) -> np.ndarray:
    """Write a line of text as large as fits, black on white."""
    natural = cv2.getTextSize(text, FONT, 1, 1)[0][0]
    scale = min(0.8 * width / natural, 0.5)
    (length, height), below = cv2.getTextSize(text, FONT, scale, 1)
    line = np.full((height + 2 * below, width, 3), 255, np.uint8)
    corner = (width - length) // 2, height + below // 2
    return cv2.putText(line, text, corner, FONT, scale, (0, 0, 0), 1, cv2.LINE_AA)
