"""Loading of a trained model with its config."""

from pathlib import Path
from typing import Optional, Union

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner.checkpoint import load_state_dict
from torch import nn

from mmseg_semflow.export.settings import find_test_dataset
from mmseg_semflow.pixels import check_palette
from mmseg_semflow.safe_loading import load_from_anywhere, weights_in

ConfigType = Union[str, Path, Config]


def load_model(config: ConfigType,
               checkpoint: str,
               device: Optional[str] = None) -> BaseModel:
    """Load a segmentor or generator of SemFlow for inference.

    Args:
        config (str | Path | Config): The config or its file.
        checkpoint (str): Checkpoint of the segmentor or of the generator.
        device (str, optional): Defaults to None, a GPU if there is one.

    Returns:
        BaseModel: In eval mode, with ``semflow``, the config ``cfg`` and
        ``dataset_meta``, which has ``classes`` and ``palette``.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If the config is of another model, or the checkpoint does
            not fit it.
    """
    cfg = read_config(config)
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    model = MODELS.build(cfg.model)
    meta = load_weights(model, checkpoint)
    model.dataset_meta = find_dataset_meta(
        cfg, meta, model.semflow.codec.num_classes, checkpoint)
    model.cfg = cfg
    return model.to(device or get_device()).eval()


def find_dataset_meta(cfg: Config, meta: dict, num_classes: int,
                      checkpoint: Union[str, Path]) -> dict:
    """Tell classes and palette of a checkpoint, or of its config's dataset.

    Args:
        cfg (Config): The config.
        meta (dict): What the checkpoint says of itself.
        num_classes (int): Number of classes of the codec.
        checkpoint (str | Path): Its file, for the error.

    Returns:
        dict: With ``classes`` and ``palette``.

    Raises:
        ValueError: If neither says them for all classes.
    """
    dataset_meta = meta.get('dataset_meta') or {}
    if not isinstance(dataset_meta, dict):
        raise ValueError(f'meta.dataset_meta of {checkpoint} must be a dict, but it is '
                         f'{type(dataset_meta).__name__}')
    dataset_meta = dict(dataset_meta)
    if not dataset_meta.get('classes'):
        dataset_meta = meta_of_dataset(cfg)
    for key in ('classes', 'palette'):
        found = dataset_meta.get(key)
        if not isinstance(found, (list, tuple)) or len(found) != num_classes:
            raise ValueError(
                f'{checkpoint} has no {key} of its {num_classes} classes in '
                'meta.dataset_meta, and the dataset of the config neither')
    check_palette(dataset_meta['palette'], f'the palette of {checkpoint}')
    return dataset_meta


def load_weights(model: nn.Module,
                 checkpoint: Union[str, Path],
                 strict: bool = False) -> dict:
    """Load a checkpoint into a model.

    Args:
        model (nn.Module): The model.
        checkpoint (str | Path): A file, or an address that mmengine knows.
        strict (bool): Whether all keys must be the same. Defaults to False;
            the part ``semflow`` of a model is strict in any case.

    Returns:
        dict: What the checkpoint says of itself, its ``meta``.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If it cannot be read or does not fit.
        RuntimeError: If keys differ, with ``strict``.
    """
    loaded = load_from_anywhere(str(checkpoint))
    state_dict, meta = weights_in(loaded, checkpoint), loaded.get('meta') or {}
    if not isinstance(meta, dict):
        raise ValueError(f'meta of {checkpoint} must be a dict, but it is '
                         f'{type(meta).__name__}')
    try:
        load_state_dict(model, state_dict, strict)
    except ValueError as error:
        raise ValueError(f'{checkpoint} does not fit: {error}') from error
    return meta


def read_config(config: ConfigType) -> Config:
    """Read a config of SemFlow.

    Args:
        config (str | Path | Config): The config or its file.

    Returns:
        Config: The config.

    Raises:
        ValueError: If it is of another model.
    """
    cfg = config if isinstance(config, Config) else Config.fromfile(config)
    if 'semflow' not in cfg.get('model', {}):
        raise ValueError(
            f'{name_of(cfg)} is no config of SemFlow: '
            "it has no key 'model.semflow'")
    return cfg


def name_of(cfg: Config) -> str:
    """Tell the file of a config, for an error."""
    return str(cfg.filename or 'the config')


def innermost(dataset: dict) -> dict:
    """Find the config of the dataset that wrappers such as a cache hold."""
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    return dataset


def meta_of_dataset(cfg: Config) -> dict:
    """Tell the classes and the palette of the dataset of a config.

    Args:
        cfg (Config): The config.

    Returns:
        dict: As in ``meta.dataset_meta`` of a checkpoint; empty if the config
        does not say.
    """
    dataset = find_test_dataset(cfg)
    if 'type' not in dataset:
        return {}
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    try:
        # The dataset itself says it: the config may choose among its classes.
        return DATASETS.build(
            dict(dataset, pipeline=[], lazy_init=True)).metainfo
    except (AssertionError, OSError):  # some of mmsegmentation's look for files
        with DATASETS.switch_scope_and_registry('mmseg') as registry:
            kind = registry.get(dataset['type'])
        return {**kind.METAINFO, **dataset.get('metainfo', {})}


def dataset_name(cfg: Config) -> str:
    """Name the class of the dataset of a config; '' if it does not say."""
    return str(find_test_dataset(cfg).get('type', ''))
