"""What a trained model is, as plain numbers and words in a JSON file."""

import json
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, List, Mapping, Optional

from mmseg_semflow.arguments import both_sides, fits

from .preparation import check_interpolation

VERSION = 1
# Where the weights of a part came from, and what only training asks for.
TRAINING = dict(
    # Folders hold adapters merged.
    network=('sd_folder', 'unet_weights', 'gradient_checkpointing', 'lora'),
    autoencoder=('sd_folder', 'weights'))
OF_MODEL = ('losses', 'partial_load', 'compile_network', 'init_cfg')
# Transforms of a test pipeline, and those of their arguments that are known.
TRANSFORMS = dict(
    LoadImageFromFile=('backend_args', ),
    LoadAnnotations=None,
    Resize=('scale', 'keep_ratio', 'interpolation', 'backend'),
    PackSegInputs=None)


# What folders and files say of their model.
KINDS = dict(classes=List[str], palette=List[List[int]])


@contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Name in errors, of whatever kind, the file that describes a model wrongly."""
    try:
        yield
    except (ImportError, FileNotFoundError):
        raise
    except Exception as error:
        kind = '' if isinstance(error, ValueError) else f'{type(error).__name__}: '
        raise ValueError(
            f'{path} does not describe a model rightly: {kind}{error}') from error


def check_kinds(found: Mapping, kinds: Mapping) -> None:
    """Raise a ValueError if one of some keys is missing or of another type."""
    for key, kind in kinds.items():
        if key not in found:
            raise ValueError(f'it has no {key}')
        if not fits(found[key], kind):
            name = kind.__name__ if isinstance(kind, type) else \
                str(kind).replace('typing.', '')
            raise ValueError(f'{key} must be {name}, but got {found[key]!r}')


def settings_of(cfg: Any, dataset_meta: dict, name: str) -> dict:
    """Take from a config what using the model needs.

    Args:
        cfg (Config): Of a segmentor or a generator.
        dataset_meta (dict): ``classes``, ``palette`` and perhaps
            ``reduce_zero_label``.
        name (str): What the config is called, for an error.

    Returns:
        dict: ``version``; ``model``, arguments of :class:`SemFlowModel`;
        ``classes``; ``palette``; ``reduce_zero_label``; ``segmentation``, the
        ``test_cfg`` of a segmentor with the key ``preparation``, see
        :class:`Preparation`, or None; and ``synthesis``, arguments of
        :class:`Synthesizer`.

    Raises:
        ValueError: If the config has something that cannot be exported. It is
            named.
    """
    model = dict(cfg.model.semflow)
    for key in OF_MODEL:
        model.pop(key, None)
    for part, keys in TRAINING.items():
        model[part] = {k: v for k, v in model[part].items() if k not in keys}
    segmentation = None
    if str(cfg.model.type).split('.')[-1] == 'SemFlow':
        segmentation = dict(
            cfg.model.get('test_cfg') or {}, preparation=_preparation(cfg, name))
    return _plain(
        dict(
            version=VERSION,
            model=model,
            classes=dataset_meta['classes'],
            palette=[[int(v) for v in colour] for colour in dataset_meta['palette']],
            reduce_zero_label=bool(dataset_meta.get('reduce_zero_label')),
            segmentation=segmentation,
            synthesis=cfg.get('synthesis') or {}), name)


def _plain(settings: dict, name: str) -> dict:

    def refuse(value: Any) -> None:
        raise ValueError(f'{name} has a {type(value).__name__}, {value!r}, in what '
                         'describes the model: only numbers, texts, lists and '
                         'dicts can be exported, and types by their names')

    return json.loads(json.dumps(settings, default=refuse))


def find_test_dataset(cfg: Any) -> dict:
    """Find the config of the dataset in ``test_dataloader`` that wrappers hold."""
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    while 'dataset' in dataset or 'datasets' in dataset:
        if 'dataset' not in dataset and not dataset['datasets']:
            raise ValueError('test_dataloader has a dataset whose datasets must be at '
                             'least one, but got []')
        # Those that are concatenated are of the same classes.
        dataset = dataset['dataset'] if 'dataset' in dataset else dataset['datasets'][0]
    return dataset


def find_test_pipeline(cfg: Any) -> Optional[List[dict]]:
    """Find how a config prepares its test pictures.

    Args:
        cfg (Config): The config.

    Returns:
        List[dict] | None: The pipeline of the dataset in ``test_dataloader``, by which
        mmsegmentation tests; where that has none, ``test_pipeline``, which is else a
        variable alone; None where there is neither.
    """
    return find_test_dataset(cfg).get('pipeline') or cfg.get('test_pipeline')


def _preparation(cfg: Any, name: str) -> dict:
    """Read from the test pipeline how pictures reach the network."""
    pipeline = find_test_pipeline(cfg)
    if pipeline is None:
        raise ValueError(f'{name} has no test_pipeline, which says how pictures '
                         'are prepared')
    resize = None
    for transform in pipeline:
        kind = str(transform['type']).split('.')[-1]
        if kind not in TRANSFORMS:
            raise ValueError(f'the test_pipeline of {name} has {kind!r}, which cannot '
                             f'be exported: it may have {", ".join(TRANSFORMS)}')
        known = TRANSFORMS[kind]
        wrong = set() if known is None else transform.keys() - {'type', *known}
        if wrong or (kind == 'Resize' and 'scale' not in transform):
            raise ValueError(
                f'{kind} in the test_pipeline of {name} cannot be exported with '
                f'{sorted(transform.keys() - {"type"})}: it may have '
                f'{", ".join(known)}')
        if kind != 'Resize':
            continue
        if resize is not None:
            raise ValueError(f'the test_pipeline of {name} has Resize twice, which '
                             'cannot be exported')
        resize = dict(
            scale=both_sides(transform['scale']),
            keep_ratio=transform.get('keep_ratio', False),
            interpolation=transform.get('interpolation', 'bilinear'),
            backend=transform.get('backend', 'cv2'))
    given = cfg.model.get('data_preprocessor') or {}
    test_cfg = dict(given.get('test_cfg') or {})
    if len(test_cfg) > 1 or not {'size', 'size_divisor'}.issuperset(test_cfg):
        raise ValueError(f'data_preprocessor.test_cfg of {name} must have size or '
                         f'size_divisor, but got {sorted(test_cfg)}')
    if resize is not None:
        check_interpolation(resize['interpolation'], resize['backend'])
    pad = dict(test_cfg, value=given.get('pad_val', 0)) if test_cfg else None
    return dict(resize=resize, pad=pad)
