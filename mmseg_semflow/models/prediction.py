"""How images are segmented: the settings of ``test_cfg``."""

from contextlib import nullcontext
from math import inf
from typing import Optional

import torch
from torch import Tensor

from mmseg_semflow.flow import (
    Generators,
    average_windows,
    check_tiling,
    seeded_generator,
)
from mmseg_semflow.pixels import to_uint8

from .semflow_model import SemFlowModel

KEYS = {
    'num_steps', 'solver', 'mode', 'dtype', 'seed', 'crop_size', 'stride', 'temperature'
}


def prediction_settings(semflow: SemFlowModel, given: Optional[dict]) -> dict:
    """Complete ``test_cfg`` by the defaults.

    Args:
        semflow (SemFlowModel): The model.
        given (dict, optional): Some of the settings, see
            :class:`mmseg_semflow.models.segmentors.SemFlow`.

    Returns:
        dict: All of them.
    """
    return {
        **dict(
            num_steps=25,
            solver=semflow.process.default_solver,
            mode='whole',
            dtype=None,
            seed=0,
            temperature=1.),
        **(given or {})
    }


def check_prediction(semflow: SemFlowModel, cfg: dict) -> None:
    """Raise a ValueError if ``test_cfg`` breaks a rule."""
    if not KEYS.issuperset(cfg):
        raise ValueError(f'test_cfg must have keys of {sorted(KEYS)}, but '
                         f'got {min(cfg.keys() - KEYS)!r}')
    semflow.process.check_sampling(cfg['num_steps'], cfg['solver'])
    if cfg['mode'] not in ('whole', 'slide', 'none'):
        raise ValueError("test_cfg.mode must be 'whole', 'slide' or 'none', "
                         f'but got {cfg["mode"]!r}')
    if cfg['dtype'] not in (None, 'bfloat16'):
        raise ValueError("test_cfg.dtype must be None or 'bfloat16', "
                         f'but got {cfg["dtype"]!r}')
    temperature = cfg['temperature']
    if not (isinstance(temperature, (int, float)) and 0 < temperature < inf):
        raise ValueError('test_cfg.temperature must be a number > 0, but got '
                         f'{temperature!r}')
    if cfg['mode'] == 'slide':
        check_tiling(
            cfg.get('crop_size'), cfg.get('stride'),
            ('test_cfg.crop_size', 'test_cfg.stride'))


def predict_map(semflow: SemFlowModel, inputs: Tensor, cfg: dict) -> Tensor:
    """Transport images to masks as ``test_cfg`` says.

    With ``mode='slide'`` the maps of overlapping windows are averaged. The logits
    are affine in the pseudo mask: averaging 3 channels equals averaging the logits
    of all classes.

    Args:
        semflow (SemFlowModel): The model.
        inputs (Tensor): Images in [-1, 1], shape (B, 3, H, W).
        cfg (dict): See :func:`prediction_settings`.

    Returns:
        Tensor: Pseudo masks, about [-1, 1], shape (B, 3, H, W); where the model
        has a refiner, which corrects the scores of classes that no colour has,
        logits, shape (B, num_classes, H, W).
    """
    if cfg['mode'] == 'slide':
        return average_windows(
            lambda window: _predict_whole(semflow, inputs[window], cfg), inputs,
            cfg['crop_size'], cfg['stride'])
    return _predict_whole(semflow, inputs, cfg)


def decode_map(semflow: SemFlowModel, maps: Tensor) -> Tensor:
    """Classify what :func:`predict_map` returned: int64, shape (B, H, W)."""
    if semflow.refiner is not None:
        return maps.argmax(1)
    return semflow.codec.decode(maps)


def _predict_whole(semflow: SemFlowModel, inputs: Tensor, cfg: dict) -> Tensor:
    # Autocast that is switched off would end one of the caller, such as that of
    # mmengine's loops with fp16=True.
    context = nullcontext() if cfg['dtype'] is None else torch.autocast(
        inputs.device.type, dtype=torch.bfloat16)
    transport = (
        semflow.image_to_mask
        if semflow.refiner is None else semflow.image_to_logits)
    with context:
        return transport(
            inputs,
            cfg['num_steps'],
            cfg['solver'],
            generators=_generators(semflow, inputs, cfg['seed']))


def _generators(semflow: SemFlowModel, inputs: Tensor, seed: int) -> Generators:
    if 'image_to_mask' not in semflow.process.stochastic:
        return None
    return [seeded_generator(seed, 0, to_uint8(image)) for image in inputs]
