"""A trained model as a pipeline of diffusers, without OpenMMLab."""

import json
from pathlib import Path
from typing import Any, List, Optional, Sequence, Union

import numpy as np
import torch
from diffusers import DiffusionPipeline
from huggingface_hub import snapshot_download
from PIL import Image

from mmseg_semflow.files import read_json
from mmseg_semflow.models import SemFlowModel
from mmseg_semflow.models.prediction import (
    check_prediction,
    decode_map,
    predict_map,
    prediction_settings,
)
from mmseg_semflow.networks.diffusers_folder import folder_to_model, model_to_folder
from mmseg_semflow.pixels import paint
from mmseg_semflow.registry import MODELS
from mmseg_semflow.synthesis.pictures import Palette, read_label_map
from mmseg_semflow.synthesis.synthesizer import Synthesizer

from .preparation import Picture, Preparation, labels_of, to_rgb
from .settings import KINDS, VERSION, check_kinds, naming_file

INDEX, SETTINGS, CARD = 'model_index.json', 'semflow.json', 'README.md'


class SemFlowPipeline(DiffusionPipeline):
    """Segment pictures, and synthesise pictures for masks.

    >>> pipe = SemFlowPipeline.from_pretrained('semflow_camvid')
    >>> labels = pipe.segment('street.png')
    >>> pictures = pipe.synthesize(labels, num_samples=3)

    Results are those of :class:`mmseg_semflow.apis.SemFlowInferencer` with the
    config and the checkpoint that the folder was made of: it holds the whole
    model, with what wraps its network, its refiner and its autoencoder, whichever
    these are. The folder has ``unet`` and, where diffusers knows the autoencoder,
    ``vae``, which plain diffusers loads; all other weights are in
    ``semflow.safetensors``, and ``semflow.json`` holds the rest: classes, palette,
    codec, sizes and steps.

    Args:
        semflow (SemFlowModel): The model.
        settings (dict): See :func:`mmseg_semflow.export.settings.settings_of`.
        card (str): The model card. Defaults to '', none.

    Raises:
        ValueError: If the settings break a rule of the model.
    """

    def __init__(self, semflow: SemFlowModel, settings: dict, card: str = '') -> None:
        super().__init__()
        self.register_modules(semflow=semflow.eval())
        self.settings = settings
        self.card = card
        self.classes = tuple(settings['classes'])
        self.palette = [list(colour) for colour in settings['palette']]
        self._prediction: Optional[dict] = None
        if settings['segmentation'] is not None:
            given = dict(settings['segmentation'])
            self.preparation = Preparation(**given.pop('preparation'))
            self._prediction = prediction_settings(semflow, given)
            check_prediction(semflow, self._prediction)

    @classmethod
    def from_pretrained(cls,
                        pretrained_model_name_or_path: Union[str, Path],
                        torch_dtype: Optional[torch.dtype] = None,
                        *,
                        cache_dir: Union[str, Path, None] = None,
                        force_download: bool = False,
                        local_files_only: bool = False,
                        revision: Optional[str] = None,
                        token: Union[str, bool, None] = None) -> 'SemFlowPipeline':
        """Load a folder, or a model of the Hugging Face Hub.

        Args:
            pretrained_model_name_or_path (str | Path): The folder, or
                ``'owner/name'``.
            torch_dtype (torch.dtype, optional): To which the weights of the network
                and of the autoencoder are converted. Defaults to None, that of the
                files.
            cache_dir (str | Path, optional): Where models of the hub are kept.
                Defaults to None, the hub's cache.
            force_download (bool): Whether to fetch again what is there. Defaults to
                False.
            local_files_only (bool): Whether to use what is there. Defaults to False.
            revision (str, optional): Branch, tag or commit. Defaults to None, the
                main branch.
            token (str | bool, optional): For private models. Defaults to None, that
                of the login.

        Returns:
            SemFlowPipeline: On the CPU.

        Raises:
            FileNotFoundError: If there is no such folder, and no such model can be
                fetched; or if a file is missing.
            ValueError: If the folder holds something else, or its weights do not
                fit its settings.
        """
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            folder = _fetch(
                str(pretrained_model_name_or_path),
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                revision=revision,
                token=token)
        settings = read_settings(folder)
        with naming_file(folder / SETTINGS):
            semflow = MODELS.build(dict(settings['model'], type='SemFlowModel'))
        folder_to_model(folder, semflow)
        card = folder / CARD
        text = card.read_text('utf-8', 'replace') if card.is_file() else ''
        with naming_file(folder / SETTINGS):
            pipe = cls(semflow, settings, text)
        pipe._lay_out()
        return pipe if torch_dtype is None else pipe.to(torch_dtype)

    def save_pretrained(self,
                        save_directory: Union[str, Path],
                        safe_serialization: bool = True,
                        variant: Optional[str] = None) -> None:
        """Write the folder.

        Args:
            save_directory (str | Path): It, made where it is missing.
            safe_serialization (bool): Must be True: nothing is pickled.
            variant (str, optional): Must be None: there is one of each file.

        Raises:
            ValueError: If one of these is otherwise.
        """
        if not safe_serialization or variant is not None:
            raise ValueError(
                'a SemFlowPipeline is saved as safetensors and without a variant, '
                f'but got safe_serialization={safe_serialization}, variant={variant!r}')
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        model_to_folder(self.semflow, folder)
        self._lay_out()
        (folder / SETTINGS).write_text(
            json.dumps(self.settings, indent=2) + '\n', 'utf-8')
        if self.card:
            (folder / CARD).write_text(self.card, 'utf-8')
        self.save_config(folder)

    def _upload_folder(self, working_dir: Union[str, Path], *args, **kwargs) -> Any:
        # What push_to_hub wrote last is an empty card.
        if self.card:
            (Path(working_dir) / CARD).write_text(self.card, 'utf-8')
        return super()._upload_folder(working_dir, *args, **kwargs)

    def _lay_out(self) -> None:
        if self.settings['model'].get('channels_last'):
            self.semflow.to(memory_format=torch.channels_last)

    @property
    def device(self) -> torch.device:
        """torch.device: Where it computes."""
        return self.semflow.device

    @property
    def dtype(self) -> torch.dtype:
        """torch.dtype: That of the network's weights."""
        return next(self.semflow.network.parameters()).dtype

    def to(self, *args, **kwargs) -> 'SemFlowPipeline':
        """Move to a device, and convert the weights to a dtype, or one of these.

        Codec, wrappers and refiner stay in float32.

        Args:
            *args: Those of ``torch.nn.Module.to``.
            **kwargs: Those of ``torch.nn.Module.to``; diffusers'
                ``silence_dtype_warnings`` is not needed.

        Returns:
            SemFlowPipeline: This pipeline.
        """
        kwargs.pop('silence_dtype_warnings', None)
        device, dtype = torch._C._nn._parse_to(*args, **kwargs)[:2]
        self.semflow.to(device=device)
        for part in (self.semflow.network, self.semflow.autoencoder):
            part.to(dtype=dtype)
        return self

    @property
    def prediction(self) -> dict:
        """dict: How it segments, see :func:`prediction_settings`.

        Raises:
            ValueError: If the folder was made of the config of a generator.
        """
        if self._prediction is None:
            raise ValueError('this folder was made of the config of a generator, '
                             'which says nothing about segmentation: make it of '
                             "that of the segmentor, model.type='SemFlow'")
        return dict(self._prediction)

    @torch.no_grad()
    def segment(self,
                image: Union[Picture, Sequence[Picture]],
                num_steps: Optional[int] = None,
                solver: Optional[str] = None) -> Union[np.ndarray, List[np.ndarray]]:
        """Segment pictures.

        Args:
            image (str | Path | np.ndarray | Image | Sequence): A file, a picture
                of PIL, or an RGB array, uint8, shape (H, W, 3); or a list.
            num_steps (int, optional): Number of steps. Defaults to None, that of
                the folder.
            solver (str, optional): Defaults to None, that of the folder.

        Returns:
            np.ndarray | List[np.ndarray]: Labels, int64, shape (H, W); a list for a
            list.

        Raises:
            ValueError: If the folder is of a generator, an argument breaks its rule
                or a picture cannot be read.
        """
        asked = dict(num_steps=num_steps, solver=solver)
        how = {**self.prediction,
               **{k: v for k, v in asked.items() if v is not None}}
        check_prediction(self.semflow, how)
        if isinstance(image, (list, tuple)):
            return [self._segment(picture, how) for picture in map(to_rgb, image)]
        return self._segment(to_rgb(image), how)

    def _segment(self, picture: np.ndarray, how: dict) -> np.ndarray:
        maps = predict_map(
            self.semflow, self.preparation(picture).to(self.device), how)
        maps = self.preparation.restore(maps, picture.shape[:2])
        return labels_of(decode_map(self.semflow, maps))

    def synthesize(self,
                   mask: Union[str, Path, np.ndarray, Image.Image],
                   palette: Optional[Palette] = None,
                   generator: Optional[torch.Generator] = None,
                   **kwargs) -> List[Image.Image]:
        """Synthesise pictures for a mask.

        Args:
            mask (str | Path | np.ndarray | Image): A label map, a file, a picture of
                PIL or an integer array, shape (H, W); a coloured one with
                ``palette``. One alone: for several call it several times.
            palette (Sequence[Sequence[int]], optional): RGB colours of the classes,
                such as :attr:`palette`. Defaults to None.
            generator (torch.Generator, optional): Its initial seed is that of the
                pictures: they are the same as often as it is given. Defaults to
                None, the ``seed`` of the folder, or 0.
            **kwargs: Arguments of :class:`Synthesizer` in place of those of the
                folder, such as ``num_samples``, ``num_steps``, ``size``.

        Returns:
            List[Image.Image]: ``num_samples`` pictures, RGB.

        Raises:
            ValueError: If an argument breaks its rule, or the mask cannot be read
                or has an unknown label.
        """
        if not isinstance(mask, (str, Path, np.ndarray, Image.Image)):
            raise ValueError('mask must be a file, an array or a picture of PIL, but '
                             f'got a {type(mask).__name__}')
        of_dataset = not isinstance(mask, (np.ndarray, Image.Image))
        if isinstance(mask, Image.Image):
            mask = np.array(mask if palette is None else mask.convert('RGB'))
        how = {**self.settings['synthesis'], **kwargs}
        if kwargs.get('tile_size') is not None and 'size' not in kwargs:
            how.pop('size', None)
        if generator is not None:
            if not isinstance(generator, torch.Generator):
                raise ValueError('generator must be a torch.Generator, but got '
                                 f'{type(generator).__name__}; for several pictures '
                                 'set num_samples')
            if 'seed' in kwargs:
                raise ValueError('give a generator or a seed, not both')
            how['seed'] = generator.initial_seed()
        self.semflow.process.check_direction('mask_to_image', 'synthesize')
        synthesizer = Synthesizer(self.semflow, **how)
        labels = read_label_map(
            mask, self.semflow.codec, palette,
            self.settings['reduce_zero_label'] and of_dataset)
        return [
            Image.fromarray(picture.permute(1, 2, 0).cpu().numpy())
            for picture in synthesizer(labels)
        ]

    def paint(self, labels: np.ndarray) -> Image.Image:
        """Paint labels (H, W) in the colours of the palette; void is black."""
        return Image.fromarray(paint(torch.from_numpy(labels), self.palette).numpy())


def read_settings(folder: Path) -> dict:
    """Read what a folder says of its model.

    Args:
        folder (Path): The folder.

    Returns:
        dict: See :func:`mmseg_semflow.export.settings.settings_of`.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the folder is of another pipeline, a file cannot be read, or
            it was written by a later version.
    """
    found = _read_json(folder / INDEX).get('_class_name')
    if found != SemFlowPipeline.__name__:
        raise ValueError(f'{folder} holds a {found}, but it must hold a '
                         f'{SemFlowPipeline.__name__} (_class_name in {INDEX}), as '
                         'tools/model_converters/semflow2diffusers.py writes it')
    settings = _read_json(folder / SETTINGS)
    if settings.get('version') != VERSION:
        raise ValueError(f'{folder / SETTINGS} must have version={VERSION}, but got '
                         f'{settings.get("version")!r}: it was written by another '
                         'version of mmseg_semflow')
    with naming_file(folder / SETTINGS):
        check_kinds(settings, dict(
            KINDS, model=dict, reduce_zero_label=bool, segmentation=Optional[dict],
            synthesis=dict))
    return settings


def _read_json(path: Path) -> dict:
    if not path.is_file():
        raise FileNotFoundError(
            f'{path} is not a file, so that {path.parent} is no folder of a '
            'SemFlowPipeline: tools/model_converters/semflow2diffusers.py writes one')
    return read_json(path)


def _fetch(name: str, **kwargs) -> Path:
    """Fetch a model of the hub, or find it in its cache."""
    from huggingface_hub.errors import HFValidationError
    try:
        return Path(
            snapshot_download(
                name, allow_patterns=['*.json', '*.safetensors', CARD], **kwargs))
    # What huggingface_hub raises without a network, for unknown names and for
    # names that cannot be any.
    except (OSError, HFValidationError) as error:
        raise FileNotFoundError(
            f'{name!r} is no folder here, and no model of this name could be had '
            f'from the Hugging Face Hub or its cache: {error}') from error
