"""Both directions of SemFlow from Python."""

import copy
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

import cv2
import mmcv
import numpy as np
import torch
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from mmseg.apis import inference_model
from mmseg.structures import SegDataSample
from PIL import Image

from mmseg_semflow.export.preparation import Picture as AnyPicture
from mmseg_semflow.export.preparation import to_rgb
from mmseg_semflow.export.segmentor import ExportedSegmentor, is_exported
from mmseg_semflow.export.settings import find_test_pipeline
from mmseg_semflow.models import SemFlowModel
from mmseg_semflow.models.segmentors import SemFlow
from mmseg_semflow.synthesis import (
    ClassStatistics,
    LatentStatistics,
    MultiResolutionFusion,
    Style,
    Styles,
    Synthesizer,
    TextStyle,
    TokenStyle,
)
from mmseg_semflow.synthesis.pictures import Palette, picture_size, read_label_map

from .loading import ConfigType, load_model, meta_of_dataset, name_of, read_config

Picture = Union[str, Path, np.ndarray]


class SemFlowInferencer:
    """Segment images and synthesise images from masks.

    >>> inferencer = SemFlowInferencer('semflow_toy.py', 'model.pth')
    >>> labels = inferencer.segment('street.png')
    >>> images = inferencer.synthesize(labels, num_samples=3)

    The defaults of the synthesis are those of the config's key ``synthesis``
    (arguments of :class:`Synthesizer`), if it has one.

    A file of ``tools/export.py`` segments, and does nothing else, in the place of
    the checkpoint or of both:

    >>> inferencer = SemFlowInferencer('street.onnx')
    >>> labels = inferencer.segment('street.png')

    Args:
        config (str | Path | Config): Config of the segmentor; that of the
            generator can only synthesise. Or an exported file.
        checkpoint (str, optional): Checkpoint of either; or an exported file, which
            must be of the config's codec and classes. Defaults to None, for an
            exported file alone.
        device (str, optional): Defaults to None, a GPU if there is one. Must be None
            for an exported file.
        channel_order (str): Order of the channels of all arrays, ``'bgr'`` as
            in mmcv or ``'rgb'`` as in matplotlib. Defaults to ``'bgr'``.
        providers (Sequence[str], optional): For an ONNX file, see
            :class:`ExportedSegmentor`. Defaults to None; must be None for all else.

    Attributes:
        exported (ExportedSegmentor | None): The exported file, if there is one.

    Raises:
        ValueError: If an argument breaks its rule, see also
            :func:`load_model` and :class:`ExportedSegmentor`.
    """

    def __init__(self,
                 config: ConfigType,
                 checkpoint: Optional[str] = None,
                 device: Optional[str] = None,
                 channel_order: str = 'bgr',
                 providers: Optional[Sequence[str]] = None) -> None:
        if channel_order not in ('bgr', 'rgb'):
            raise ValueError("channel_order must be 'bgr' or 'rgb', but got "
                             f'{channel_order!r}')
        self.channel_order = channel_order
        self.exported = _load_exported(config, checkpoint, device, providers)
        if self.exported is not None:
            self.classes, self.palette = self.exported.classes, self.exported.palette
            return
        self._model = load_model(config, checkpoint, device)
        pipeline = find_test_pipeline(self.model.cfg)
        if pipeline is not None:
            # Where mmseg looks for it, and changes it.
            self.model.cfg = copy.copy(self.model.cfg)
            self.model.cfg.test_pipeline = copy.deepcopy(pipeline)
        self.classes = tuple(self.model.dataset_meta['classes'])
        self.palette = [list(c) for c in self.model.dataset_meta['palette']]

    @property
    def model(self) -> BaseModel:
        """BaseModel: The segmentor or generator.

        Raises:
            ValueError: If it is an exported file, which holds none.
        """
        if self.exported is not None:
            raise ValueError(
                f'{self.exported.path} holds the segmentation alone: synthesis, '
                'trajectories and all else need the config and the checkpoint that it '
                'was exported from')
        return self._model

    @property
    def semflow(self) -> SemFlowModel:
        """SemFlowModel: That of the model."""
        return self.model.semflow

    @property
    def base(self) -> Dict[str, str]:
        """Dict[str, str]: The weights that the checkpoint of an adapter changes.

        ``base``, a digest; nothing where the checkpoint holds all weights itself.
        """
        base = getattr(self.semflow.network, 'base', None)
        return {} if base is None else dict(base=base)

    def segment(
        self,
        images: Union[AnyPicture, Sequence[AnyPicture]],
        num_steps: Optional[int] = None,
        solver: Optional[str] = None,
        return_datasamples: bool = False
    ) -> Union[np.ndarray, SegDataSample, list]:
        """Segment images through the test pipeline of the config.

        That is the one of the dataset in ``test_dataloader``, by which
        mmsegmentation tests, or, where that has none, the variable ``test_pipeline``.

        Args:
            images (str | Path | np.ndarray | Image | Sequence): Files, pictures of
                PIL, or arrays, uint8, shape (H, W, 3), one or a list. Files and
                pictures are turned as their EXIF says.
            num_steps (int, optional): Number of solver steps. Defaults to
                None, that of ``test_cfg``.
            solver (str, optional): Name of the solver. Defaults to None, that
                of ``test_cfg``.
            return_datasamples (bool): Whether to return mmseg's results.
                Defaults to False.

        Returns:
            np.ndarray | SegDataSample | list: Labels, int64, shape (H, W), or
            mmseg's ``SegDataSample``; a list for a list.

        Raises:
            ValueError: If the config is that of a generator, or images cannot
                be read; all of these are named, before any is segmented. Of an
                exported file also if it has other steps, another solver, or does not
                take the size, or mmseg's results are asked for.
        """
        if self.exported is not None:
            if return_datasamples:
                raise ValueError(f'{self.exported.path} gives labels, and no '
                                 'datasamples of mmsegmentation')
            results = self.exported.segment(
                _read_all(self._to_bgr, images), num_steps, solver)
            return results if isinstance(images, (list, tuple)) else results[0]
        if not isinstance(self.model, SemFlow):
            raise ValueError(
                "segment needs a config with model.type='SemFlow', which has "
                f'a test pipeline, but got {type(self.model).__name__}')
        arrays = _read_all(self._to_bgr, images)
        test_cfg = self.model.test_cfg
        self.model.test_cfg = test_cfg.copy()
        if num_steps is not None:
            self.model.test_cfg.num_steps = num_steps
        if solver is not None:
            self.model.test_cfg.solver = solver
        try:
            # Its pipeline is looked for in the default scope, which a
            # generator in the same process changes.
            with DefaultScope.overwrite_default_scope('mmseg'):
                results = [
                    inference_model(self.model, array) for array in arrays
                ]
        finally:
            self.model.test_cfg = test_cfg
        if not return_datasamples:
            results = [
                result.pred_sem_seg.data[0].cpu().numpy() for result in results
            ]
        return results if isinstance(images, (list, tuple)) else results[0]

    def synthesizer(self, **kwargs) -> Synthesizer:
        """Make a :class:`Synthesizer`, with the defaults of the config.

        With a ``base_size`` it is a :class:`MultiResolutionFusion`. With that
        or a ``tile_size`` the masks keep their size, whatever the config has
        for ``size``.
        """
        defaults = dict(self.model.cfg.get('synthesis', {}))
        if kwargs.get('tile_size') is not None:
            defaults.pop('size', None)
        if kwargs.get('base_size') is None:
            return Synthesizer(self.semflow, **{**defaults, **kwargs})
        for name in ('size', 'tile_size', 'tile_stride'):
            defaults.pop(name, None)
        return MultiResolutionFusion(self.semflow, **{**defaults, **kwargs})

    def styled_synthesizer(self,
                           pictures: Union[str, Path, None] = None,
                           strength: Optional[float] = None,
                           texts: Optional[Sequence[str]] = None,
                           token: Union[str, Path, None] = None,
                           by_class: bool = False,
                           **kwargs) -> Tuple[Synthesizer, Dict[str, str]]:
        """Make a synthesizer of pictures of a style.

        Args:
            pictures (str | Path, optional): A file or a folder that they look
                like, see :class:`LatentStatistics`; it is brought to the size of
                the synthesis. Defaults to None, those of the config, if any.
            strength (float, optional): How much of it, in [0, 1]; needs
                ``pictures``. Defaults to None, 1.
            texts (Sequence[str], optional): What they show besides, see
                :class:`TextStyle`. Defaults to None.
            token (str | Path, optional): A file or a folder whose style tokens they
                get, see :class:`TokenStyle`, in the size of the synthesis. Defaults to
                None, those of the config, if any.
            by_class (bool): Whether every class looks like that of one of the
                pictures, see :class:`ClassStatistics`. Defaults to False.
            **kwargs: See :meth:`synthesizer`.

        Returns:
            Tuple[Synthesizer, Dict[str, str]]: The synthesizer, and the pictures
            that could not be read, with the reason.

        Raises:
            ValueError: If an argument breaks its rule.
            FileNotFoundError: If pictures are not there.
        """
        if by_class and pictures is None:
            raise ValueError('a style by class needs the pictures that it is from')
        if strength is not None and pictures is None:
            raise ValueError('the strength of a style needs the pictures that it is '
                             f'from, but got {strength} alone')
        strength = 1. if strength is None else strength
        # Wrong arguments are told before the style is measured.
        plain = self.synthesizer(**kwargs)
        styles: List[Style] = []
        unread: Dict[str, str] = {}
        if texts is not None:
            styles.append(TextStyle(self.semflow, texts))
        size = kwargs.get('base_size') or plain.size or kwargs.get('tile_size')
        own = plain.style
        tokens = own if isinstance(own, TokenStyle) else None
        if token is not None:
            tokens = TokenStyle(token, size)
            tokens.check_model(self.semflow)
        if tokens is not None:
            unread.update(tokens.failed)
            styles.append(tokens)
        if by_class:
            style = ClassStatistics(pictures, size, strength)
            style.check_model(self.semflow)
            unread.update(style.failed)
            styles.append(style)
        elif pictures is not None:
            style, failed = LatentStatistics.of_pictures(
                self.semflow, pictures, strength, size)
            unread.update(failed)
            styles.append(style)
        elif own is not None and not isinstance(own, TokenStyle):
            unread.update(getattr(own, 'failed', {}))
            styles.append(own)
        if not styles:
            return plain, unread
        style = styles[0] if len(styles) == 1 else Styles(styles)
        return self.synthesizer(**kwargs, style=style), unread

    def synthesize(self,
                   masks: Union[Picture, Sequence[Picture]],
                   palette: Optional[Palette] = None,
                   **kwargs) -> Union[np.ndarray, List[np.ndarray]]:
        """Synthesise images from masks.

        Args:
            masks (str | Path | np.ndarray | Sequence): Label maps, files or
                integer arrays, shape (H, W), one or a list; coloured ones
                with ``palette``.
            palette (Sequence[Sequence[int]], optional): RGB colours of the
                classes, for coloured masks (arrays of them are RGB); for
                example :attr:`palette`. Defaults to None.
            **kwargs: Arguments of :class:`Synthesizer`, such as
                ``num_samples``, ``seed``, ``num_steps``, ``solver``; with a
                ``batch_size`` images of one size share a batch, of one mask
                or of several.

        Returns:
            np.ndarray | List[np.ndarray]: Images, uint8, shape (K, H, W, 3);
            a list for a list.

        Raises:
            ValueError: If an argument breaks its rule, or masks do; all of
                these are named, before anything is synthesised.
        """
        synthesizer = self.synthesizer(**kwargs)
        label_maps = _read_all(lambda mask: self.read(mask, palette), masks)
        count = synthesizer.num_samples
        images = synthesizer.synthesize([
            (labels, number) for labels in label_maps for number in range(count)
        ])
        results = [
            self._from_rgb(torch.stack(images[i * count:(i + 1) * count]))
            for i in range(len(label_maps))
        ]
        return results if isinstance(masks, (list, tuple)) else results[0]

    def trajectory(self,
                   image: Optional[AnyPicture] = None,
                   mask: Optional[Picture] = None,
                   palette: Optional[Palette] = None,
                   **kwargs) -> np.ndarray:
        """Decode the latents at all times of the solver (Fig. 6 and 7).

        Args:
            image (str | Path | np.ndarray | Image, optional): Start of the forward
                flow. Defaults to None.
            mask (str | Path | np.ndarray, optional): Start of the reverse
                flow. Defaults to None.
            palette (Sequence[Sequence[int]], optional): See
                :meth:`synthesize`. Defaults to None.
            **kwargs: Arguments of :class:`Synthesizer`.

        Returns:
            np.ndarray: Pictures, uint8, shape (N + 1, H, W, 3).

        Raises:
            ValueError: If not exactly one of ``image`` and ``mask`` is given.
        """
        if (image is None) == (mask is None):
            raise ValueError('trajectory needs either an image or a mask')
        synthesizer = self.synthesizer(**kwargs)
        if mask is None:
            pictures = synthesizer.trajectory(
                self._pixels(image, synthesizer.size), 0., 1.)
        else:
            labels = synthesizer.resize(self.read(mask, palette))
            pictures = synthesizer.trajectory(
                synthesizer.perturbed(labels, 0), 1., 0.)
        return self._from_rgb(pictures)

    def read(self,
             mask: Picture,
             palette: Optional[Palette] = None,
             reduce_zero_label: Optional[bool] = None) -> torch.Tensor:
        """Read a mask, see :func:`read_label_map`.

        ``reduce_zero_label`` defaults to that of the dataset for files, and
        to False for arrays.
        """
        if reduce_zero_label is None:
            reduce_zero_label = not isinstance(mask, np.ndarray) and bool(
                self.model.dataset_meta.get('reduce_zero_label'))
        return read_label_map(mask, self.semflow.codec, palette,
                              reduce_zero_label)

    def _pixels(self, image: AnyPicture,
                size: Optional[Sequence[int]]) -> torch.Tensor:
        array = self._to_bgr(image)
        if size is not None:
            array = cv2.resize(
                array, tuple(size[::-1]), interpolation=cv2.INTER_AREA)
        pixels = torch.from_numpy(array[..., ::-1].copy()).permute(2, 0, 1)
        return self.semflow.codec.normalize(
            pixels[None].to(self.semflow.device).float())

    def _to_bgr(self, image: AnyPicture) -> np.ndarray:
        if isinstance(image, Image.Image):
            return to_rgb(image)[..., ::-1]
        # Always an array: mmseg's inference_model forgets how to read files
        # once it was given an array.
        if not isinstance(image, np.ndarray):
            picture_size(image)
            try:
                array = mmcv.imread(str(image))
            except cv2.error as error:
                raise ValueError(
                    f'{image} cannot be read as a picture: {error}') from error
            if array is None:
                raise ValueError(f'{image} cannot be read as a picture')
            return array
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError('an image must be uint8 of shape (H, W, 3), but '
                             f'got {image.dtype} of {image.shape}')
        return image[..., ::-1] if self.channel_order == 'rgb' else image

    def _from_rgb(self, images: torch.Tensor) -> np.ndarray:
        pictures = images.permute(0, 2, 3, 1).cpu().numpy()
        if self.channel_order == 'bgr':
            pictures = pictures[..., ::-1]
        return np.ascontiguousarray(pictures)


def _load_exported(config: ConfigType, checkpoint: Optional[str],
                   device: Optional[str],
                   providers: Optional[Sequence[str]]) -> Optional[ExportedSegmentor]:
    """Load an exported file, if there is one in the place of a checkpoint or alone."""
    alone = checkpoint is None
    if is_exported(config) != alone:
        raise ValueError(
            'a config needs a checkpoint, and a file of tools/export.py (.onnx, .pt2) '
            f'stands alone or in its place, but got '
            f'{getattr(config, "filename", config)} and {checkpoint}')
    path = config if alone else checkpoint
    if not is_exported(path):
        if providers is not None:
            raise ValueError(f'providers are for an ONNX file, but {path} is none, and '
                             f'got {providers!r}: set the device')
        return None
    if device is not None:
        raise ValueError(
            f'device must be None for {path}, but got {device!r}: ONNX Runtime takes '
            'the best that it knows (or set providers), a file of torch.export the CPU')
    exported = ExportedSegmentor(path, providers=providers)
    if not alone:
        cfg = read_config(config)
        classes = meta_of_dataset(cfg).get('classes') or exported.classes
        exported.check_model(
            dict(model=cfg.model.semflow, classes=classes), name_of(cfg))
    return exported


def _read_all(read: Callable, items: Any) -> list:
    """Read one or all; name all that cannot be read in one error."""
    results, failed = [], []
    for item in items if isinstance(items, (list, tuple)) else [items]:
        try:
            results.append(read(item))
        except (ValueError, OSError) as error:
            failed.append(error)
    if len(failed) == 1:
        raise failed[0]
    if failed:
        raise ValueError('; '.join(map(str, failed)))
    return results
