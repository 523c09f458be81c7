"""Segmentation from one file, an ONNX file or one of ``torch.export``."""

import json
import os
from pathlib import Path
from typing import Any, Callable, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from torch import Tensor, nn

from mmseg_semflow.arguments import fits
from mmseg_semflow.extras import MissingExtraError
from mmseg_semflow.files import check_records
from mmseg_semflow.flow import PseudoMaskCodec, average_windows, check_tiling

from .preparation import Picture, Preparation, labels_of, to_rgb
from .settings import KINDS, VERSION, check_kinds, naming_file

ONNX, PROGRAM = '.onnx', '.pt2'
# Under this name a file says what it is.
NOTE = 'semflow.json'


def check_suffix(path: Path) -> str:
    """Tell by its name what a file is.

    Raises:
        ValueError: If it ends otherwise, or is no UTF-8, which both libraries want.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f'{path} must have a name in UTF-8: {error}') from error
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

    Files of ``torch.export`` are programs, parts of which torch unpickles: open those
    that you trust. ONNX files execute nothing.

    Args:
        path (str | Path): The file, ``.onnx`` or ``.pt2``.
        channel_order (str): Order of the channels of arrays, ``'bgr'`` or
            ``'rgb'``. Defaults to ``'bgr'``, as for the inferencer.
        providers (Sequence[str], optional): By which of its execution providers ONNX
            Runtime computes, the first that can, such as
            ``['CUDAExecutionProvider']``. Defaults to None, all that it has, in its
            own order. Must be None for a file of ``torch.export``, which the CPU runs.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If onnxruntime is not installed, for an ONNX file.
        ValueError: If the file is damaged or of something else, or providers are not
            there. It is named.
    """

    def __init__(self, path: Union[str, Path], channel_order: str = 'bgr',
                 providers: Optional[Sequence[str]] = None) -> None:
        if channel_order not in ('bgr', 'rgb'):
            raise ValueError("channel_order must be 'bgr' or 'rgb', but got "
                             f'{channel_order!r}')
        self.path = Path(path)
        suffix = check_suffix(self.path)
        if not self.path.is_file():
            raise FileNotFoundError(f'{path} is not a file: tools/export.py writes one')
        if suffix == ONNX:
            run, note = load_onnx(self.path, providers)
        elif providers is None:
            run, note = _load_program(self.path)
        else:
            raise ValueError(f'providers must be None for {path}, which torch runs on '
                             f'the CPU, but got {providers!r}')
        self.graph = _Graph(run)
        if note is None:
            raise ValueError(f'{path} is no segmentor of SemFlow: it does not say '
                             f'{NOTE}, as files of tools/export.py do')
        with naming_file(self.path):
            self.note = json.loads(note)
            self._check_note()
            self.codec = PseudoMaskCodec(**self.note['codec'])
            self.preparation = Preparation(**self.note['segmentation']['preparation'])
        self.channel_order = channel_order
        self.classes = tuple(self.note['classes'])
        self.palette = [list(colour) for colour in self.note['palette']]
        self.num_steps = self.note['segmentation']['num_steps']

    def _check_note(self) -> None:
        """Raise a ValueError if the file does not say what it must."""
        version = fits(self.note, dict) and self.note.get('version')
        if version != VERSION:
            raise ValueError(f'it must have version={VERSION}, but got {version!r}: it '
                             'was written by another version of mmseg_semflow')
        check_kinds(self.note, dict(
            KINDS, codec=dict, segmentation=dict, factor=int, divisor=int,
            size=Optional[Tuple[int, int]], scored=bool))
        how = self.note['segmentation']
        check_kinds(how, dict(mode=str, num_steps=int, preparation=dict))
        if min(self.note['factor'], self.note['divisor']) < 1:
            raise ValueError('factor and divisor must be above 0, but got '
                             f'{self.note["factor"]} and {self.note["divisor"]}')
        if how['mode'] == 'slide':
            check_tiling(how.get('crop_size'), how.get('stride'),
                         ('crop_size', 'stride'))

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
            how = self.note['segmentation']
            if how['mode'] == 'slide':
                window = 'x'.join(map(str, how['crop_size']))
                raise ValueError(
                    f'{self.path} segments in windows of {window} (height x width), '
                    'which a picture must fill as it is prepared, but the network '
                    f'would get {sides[0]}x{sides[1]}: enlarge the picture, or export '
                    'a file for such pictures, all of one size, with --size '
                    f'{sides[0]} {sides[1]}')
            raise ValueError(
                f'{self.path} was exported for pictures of {size[0]}x{size[1]} (height '
                f'x width), but the network would get {sides[0]}x{sides[1]}: export '
                f'it with --size {sides[0]} {sides[1]}')
        if any(side % divisor for side in sides):
            raise ValueError(
                f'{self.path} takes pictures whose sides are multiples of {divisor}, '
                f'but the network would get {sides[0]}x{sides[1]} (height x width): '
                f'export it with --size {sides[0]} {sides[1]}')
        try:
            found = self.graph(padded)
        # Of onnxruntime and torch, of many kinds.
        except Exception as error:
            raise ValueError(f'{self.path} cannot segment a picture of {sides[0]}x'
                             f'{sides[1]} (height x width): {error}') from error
        wanted = (1, self.codec.num_classes if self.note['scored'] else 3, *sides)
        if found.shape != wanted or found.dtype != torch.float32:
            raise ValueError(
                f'{self.path} must compute a map of shape {wanted}, float32, but it is '
                f'of {tuple(found.shape)}, {found.dtype}')
        return found[..., :height, :width]


def load_onnx(path: Path, providers: Optional[Sequence[str]] = None) -> Any:
    """Load an ONNX file: what runs it, and what it says of itself, or None.

    Args:
        path (Path): The file.
        providers (Sequence[str], optional): See :class:`ExportedSegmentor`.

    Raises:
        ImportError: If onnxruntime is not installed.
        ValueError: If it cannot be read, or providers are not there.
    """
    # It would tell its makers of every start.
    os.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError(str(path), 'onnxruntime', 'export', error) from error
    available = onnxruntime.get_available_providers()
    chosen = available if providers is None else providers
    if isinstance(chosen, str) or not chosen or any(
            name not in available for name in chosen):
        raise ValueError(
            f'providers for {path} must be a list of those that onnxruntime '
            f'{onnxruntime.__version__} has here, {", ".join(available)}, but got '
            f'{providers!r}')
    try:
        session = onnxruntime.InferenceSession(str(path), providers=list(chosen))
        note = session.get_modelmeta().custom_metadata_map.get(NOTE)
    # Of its own kinds, which have no other parent.
    except Exception as error:
        raise ValueError(f'{path} cannot be read as an ONNX file: {error}') from error
    # What cannot be started is replaced by the CPU, with a warning alone.
    missing = [name for name in providers or () if name not in session.get_providers()]
    if missing:
        raise ValueError(
            f'onnxruntime cannot start {", ".join(missing)} of providers for {path}; '
            f'it would run by {", ".join(session.get_providers())}')

    def run(pixels: Tensor) -> Tensor:
        found, = session.run(['map'], dict(image=pixels.numpy()))
        return torch.from_numpy(found)

    return run, note


def _load_program(path: Path) -> Any:
    files = {NOTE: ''}
    try:
        check_records(path)
        program = torch.export.load(path, extra_files=files)
    except Exception as error:
        raise ValueError(
            f'{path} cannot be read as a file of torch.export: {error}') from error
    module: Callable = program.module()
    return lambda pixels: module(pixels)[1], files[NOTE] or None
