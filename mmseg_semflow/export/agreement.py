"""An exported file beside the pipeline that it was made of."""

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Callable, Dict, List, Sequence, Union

import torch
from torch import Tensor

from mmseg_semflow.models.prediction import decode_map, predict_map

from .pipeline import SemFlowPipeline
from .preparation import to_rgb
from .segmentor import ExportedSegmentor


@dataclass
class Agreement:
    """How far the label maps of a file are those of torch.

    Attributes:
        pictures (int): Number of pictures.
        pixels (int): Number of their pixels.
        different (int): Pixels that are labelled differently.
        margin (float): The largest difference, at one of these, between torch's
            scores of the two labels: for ties that rounding decides it is of the
            size of rounding. 0 where there are none.
    """

    pictures: int
    pixels: int
    different: int
    margin: float

    def __str__(self) -> str:
        told = f'{self.different} of {self.pixels} pixels of {self.pictures} pictures'
        if not self.different:
            return f'{told} are labelled differently'
        return (f'{told} are labelled differently; the scores of their two labels '
                f'differ by at most {self.margin:.2g}')


@torch.no_grad()
def compare_labels(pipe: SemFlowPipeline, segmentor: ExportedSegmentor,
                   pictures: Sequence[Union[str, Path]]) -> Agreement:
    """Compare the label maps of pictures.

    Args:
        pipe (SemFlowPipeline): The pipeline.
        segmentor (ExportedSegmentor): The file.
        pictures (Sequence[str | Path]): Files of pictures.

    Raises:
        ValueError: If the file is of another model, does not take a picture's size,
            or a picture cannot be read.
    """
    how = _same(pipe, segmentor)
    found = Agreement(0, 0, 0, 0.)
    for file in pictures:
        picture = to_rgb(file)
        pixels = pipe.preparation(picture)
        ours, theirs = (
            pipe.preparation.restore(maps, picture.shape[:2])
            for maps in (predict_map(pipe.semflow, pixels, how),
                         segmentor.predict_map(pixels)))
        labels, other = (decode_map(pipe.semflow, maps) for maps in (ours, theirs))
        found.pictures += 1
        found.pixels += labels.numel()
        wrong = labels != other
        if wrong.any():
            margins = _score(pipe, ours, labels) - _score(pipe, ours, other)
            found.different += int(wrong.sum())
            found.margin = max(found.margin, float(margins[wrong].max()))
    return found


@torch.no_grad()
def measure_latency(pipe: SemFlowPipeline, segmentor: ExportedSegmentor,
                    picture: Union[str, Path], repeats: int) -> Dict[str, float]:
    """Time both on one prepared picture, in turns, after a call of each.

    Args:
        pipe (SemFlowPipeline): The pipeline.
        segmentor (ExportedSegmentor): The file.
        picture (str | Path): The picture.
        repeats (int): Number of rounds, at least 1.

    Returns:
        Dict[str, float]: Medians in seconds, of ``torch`` and of the file.

    Raises:
        ValueError: See :func:`compare_labels`; or if ``repeats`` is below 1.
    """
    if repeats < 1:
        raise ValueError(f'repeats must be >= 1, but got {repeats}')
    how = _same(pipe, segmentor)
    pixels = pipe.preparation(to_rgb(picture))
    ways: Dict[str, Callable[[], Tensor]] = {
        'torch': lambda: predict_map(pipe.semflow, pixels, how),
        segmentor.path.name: lambda: segmentor.predict_map(pixels)
    }
    times: Dict[str, List[float]] = {name: [] for name in ways}
    for number in range(repeats + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if number:
                times[name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in times.items()}


def _same(pipe: SemFlowPipeline, segmentor: ExportedSegmentor) -> dict:
    """Check that both are of one model; tell how the file segments."""
    segmentor.check_model(pipe.settings, 'the pipeline')
    return {**pipe.prediction, 'num_steps': segmentor.num_steps}


def _score(pipe: SemFlowPipeline, maps: Tensor, labels: Tensor) -> Tensor:
    logits = maps if pipe.semflow.refiner is not None else pipe.semflow.codec.logits(
        maps)
    return logits.gather(1, labels[:, None])[:, 0]
