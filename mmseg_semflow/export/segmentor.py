"""Segmentation from one file, an ONNX file or one of ``torch.export``."""

import json
from pathlib import Path
from typing import Any, Callable, List, Optional, Sequence, Union

import numpy as np
import torch
from torch import Tensor, nn

from mmseg_semflow.extras import MissingExtraError
from mmseg_semflow.flow import PseudoMaskCodec, average_windows

from .preparation import Picture, Preparation, labels_of, to_rgb
from .settings import VERSION

ONNX, PROGRAM = '.onnx', '.pt2'
# Under this name a file says what it is.
NOTE = 'semflow.json'


def check_suffix(path: Path) -> str:
    """Tell by its name what a file is.

    Raises:
        ValueError: If it ends otherwise.
    """
    if not is_exported(path):
        raise ValueError(f'{path} must end in {ONNX} or {PROGRAM}')
    return path.suffix


def is_exported(path: Any) -> bool:
    """Tell by its name whether something is such a file."""
    return isinstance(path, (str, Path)) and Path(path).suffix in (ONNX, PROGRAM)


class _Graph(nn.Module):
    """What runs, as a module, so that hooks can be registered."""

    def __init__(self, run: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.run = run

    def forward(self, pixels: Tensor) -> Tensor:
        return self.run(pixels)


class ExportedSegmentor:
    """Segment pictures by a file that :func:`export_segmentor` wrote.

    >>> segmentor = ExportedSegmentor('street.onnx')
    >>> labels = segmentor.segment('street.png')

    It has the interface of :class:`mmseg_semflow.apis.SemFlowInferencer` for
    segmentation, and needs neither OpenMMLab nor diffusers.

    Args:
        path (str | Path): The file, ``.onnx`` or ``.pt2``.
        channel_order (str): Order of the channels of arrays, ``'bgr'`` or
            ``'rgb'``. Defaults to ``'bgr'``, as for the inferencer.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If onnxruntime is not installed, for an ONNX file.
        ValueError: If the file is of something else. It is named.
    """

    def __init__(self, path: Union[str, Path], channel_order: str = 'bgr') -> None:
        if channel_order not in ('bgr', 'rgb'):
            raise ValueError("channel_order must be 'bgr' or 'rgb', but got "
                             f'{channel_order!r}')
        self.path = Path(path)
        suffix = check_suffix(self.path)
        if not self.path.is_file():
            raise FileNotFoundError(f'{path} is not a file: tools/export.py writes one')
        load = load_onnx if suffix == ONNX else _load_program
        run, note = load(self.path)
        self.graph = _Graph(run)
        if note is None:
            raise ValueError(f'{path} is no segmentor of SemFlow: it does not say '
                             f'{NOTE}, as files of tools/export.py do')
        self.note = json.loads(note)
        if self.note.get('version') != VERSION:
            raise ValueError(f'{path} must have version={VERSION}, but got '
                             f'{self.note.get("version")!r}: it was written by another '
                             'version of mmseg_semflow')
        self.channel_order = channel_order
        self.codec = PseudoMaskCodec(**self.note['codec'])
        self.classes = tuple(self.note['classes'])
        self.palette = [list(colour) for colour in self.note['palette']]
        self.num_steps = self.note['segmentation']['num_steps']
        self.preparation = Preparation(**self.note['segmentation']['preparation'])

    def check_model(self, settings: dict, name: str) -> None:
        """Raise a ValueError if the file has another codec or other classes.

        Args:
            settings (dict): What it is compared with: ``model`` with the ``codec``,
                and ``classes``, see :func:`settings_of`.
            name (str): What has these settings.
        """
        ours = dict(self.codec.spec, classes=self.classes)
        theirs = dict(
            PseudoMaskCodec(**settings['model']['codec']).spec,
            classes=tuple(settings['classes']))
        for key in {**ours, **theirs}:
            if ours.get(key) != theirs.get(key):
                raise ValueError(
                    f'{self.path} was exported with {key}={ours.get(key)}, but {name} '
                    f'has {key}={theirs.get(key)}')

    @torch.no_grad()
    def segment(self,
                images: Union[Picture, Sequence[Picture]],
                num_steps: Optional[int] = None,
                solver: Optional[str] = None) -> Union[np.ndarray, List[np.ndarray]]:
        """Segment pictures.

        Args:
            images (str | Path | np.ndarray | Image | Sequence): Files, pictures of
                PIL, or arrays, uint8, shape (H, W, 3), one or a list.
            num_steps (int, optional): Must be that of the file. Defaults to None.
            solver (str, optional): Must be ``'euler'``. Defaults to None.

        Returns:
            np.ndarray | List[np.ndarray]: Labels, int64, shape (H, W); a list for a
            list.

        Raises:
            ValueError: If a picture cannot be read, or the file has other steps or
                does not take its size.
        """
        for name, asked, own in (('num_steps', num_steps, self.num_steps),
                                 ('solver', solver, 'euler')):
            if asked not in (None, own):
                raise ValueError(f'{self.path} was exported with {name}={own!r}, but '
                                 f'got {asked!r}')
        many = isinstance(images, (list, tuple))
        pictures = [self._to_rgb(image) for image in (images if many else [images])]
        results = [self._segment(picture) for picture in pictures]
        return results if many else results[0]

    def _to_rgb(self, image: Picture) -> np.ndarray:
        picture = to_rgb(image)
        if isinstance(image, np.ndarray) and self.channel_order == 'bgr':
            return picture[..., ::-1]
        return picture

    def _segment(self, picture: np.ndarray) -> np.ndarray:
        maps = self.predict_map(self.preparation(picture))
        maps = self.preparation.restore(maps, picture.shape[:2])
        return labels_of(
            maps.argmax(1) if self.note['scored'] else self.codec.decode(maps))

    def predict_map(self, pixels: Tensor) -> Tensor:
        """Compute the map of a prepared picture, in windows where the file has them.

        Args:
            pixels (Tensor): RGB in [-1, 1], shape (1, 3, H, W).

        Returns:
            Tensor: Pseudo mask or logits, shape (1, D, H, W).

        Raises:
            ValueError: If the file does not take its size.
        """
        how = self.note['segmentation']
        if how['mode'] == 'slide':
            return average_windows(
                lambda window: self._padded(pixels[window]), pixels, how['crop_size'],
                how['stride'])
        return self._padded(pixels)

    def _padded(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[-2:]
        factor, divisor, size = (
            self.note[key] for key in ('factor', 'divisor', 'size'))
        # As the model does, by the last column and row.
        padded = nn.functional.pad(
            pixels, (0, -width % factor, 0, -height % factor), mode='replicate')
        sides = list(padded.shape[-2:])
        if size is not None and sides != size:
            raise ValueError(
                f'{self.path} was exported for pictures of {size[0]}x{size[1]} (height '
                f'x width), but the network would get {sides[0]}x{sides[1]}: export '
                f'it with --size {sides[0]} {sides[1]}')
        if any(side % divisor for side in sides):
            raise ValueError(
                f'{self.path} takes pictures whose sides are multiples of {divisor}, '
                f'but the network would get {sides[0]}x{sides[1]} (height x width): '
                f'export it with --size {sides[0]} {sides[1]}')
        return self.graph(padded)[..., :height, :width]


def load_onnx(path: Path) -> Any:
    """Load an ONNX file: what runs it, and what it says of itself, or None.

    Raises:
        ImportError: If onnxruntime is not installed.
        ValueError: If it cannot be read.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError(str(path), 'onnxruntime', 'export', error) from error
    try:
        session = onnxruntime.InferenceSession(
            str(path), providers=onnxruntime.get_available_providers())
    # Of its own kinds, which have no other parent.
    except Exception as error:
        raise ValueError(f'{path} cannot be read as an ONNX file: {error}') from error
    note = session.get_modelmeta().custom_metadata_map.get(NOTE)

    def run(pixels: Tensor) -> Tensor:
        found, = session.run(['map'], dict(image=pixels.numpy()))
        return torch.from_numpy(found)

    return run, note


def _load_program(path: Path) -> Any:
    files = {NOTE: ''}
    try:
        program = torch.export.load(path, extra_files=files)
    except Exception as error:
        raise ValueError(
            f'{path} cannot be read as a file of torch.export: {error}') from error
    module: Callable = program.module()
    return lambda pixels: module(pixels)[1], files[NOTE] or None
