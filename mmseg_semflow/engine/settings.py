"""What a training must share with the checkpoint that it resumes from."""

import re
from logging import Logger
from typing import Any, Dict, Iterator, Optional, Tuple

from mmengine.dist import get_world_size
from mmengine.runner import Runner

_COMPARED = ('model', 'optim_wrapper', 'param_scheduler', 'train_cfg')
# What changes nothing, or nothing that is trained.
_IGNORED = re.compile(r'model\.test_cfg|train_cfg\.(?!max_iters)')
# What may change on purpose; the result is then another, or another to rounding.
_ALLOWED = re.compile(
    r'world_size$|train_cfg\.max_iters$|param_scheduler|.*\.(data_root|cache|'
    r'sd_folder|unet_weights|gradient_checkpointing|channels_last|'
    r'compile_network|backend_args)\b')
_SCHEDULER = re.compile(r'param_scheduler(\.\d+)?\.type')


def flatten(value: Any, name: str) -> Iterator[Tuple[str, str]]:
    """List the values of a part of a config by dotted keys, as text."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        yield name, repr(value)
        return
    for key, inner in items:
        yield from flatten(inner, f'{name}.{key}')


def training_settings(runner: Runner) -> Dict[str, str]:
    """List what makes a training what it is, as text.

    Args:
        runner (Runner): The runner.

    Returns:
        Dict[str, str]: Values by dotted key of the config. Besides, the number
        of images, of processes, and of images in an iteration of all of them.
    """
    cfg = runner.cfg.to_dict()
    parts = {name: cfg.get(name) for name in _COMPARED}
    parts['train_dataloader.dataset'] = cfg.get('train_dataloader',
                                                {}).get('dataset')
    parts['EMAHook'] = [
        hook for hook in cfg.get('custom_hooks') or []
        if hook['type'] == 'EMAHook'
    ]
    loader = runner.train_dataloader
    parts |= {
        'number of images': len(loader.dataset),
        'world_size': get_world_size(),
        'images in an iteration': loader.batch_size * get_world_size()
    }
    return {
        key: value
        for name, part in parts.items() for key, value in flatten(part, name)
        if not _IGNORED.match(key)
    }


def check_settings(saved: Optional[Dict[str, str]], current: Dict[str, str],
                   logger: Logger) -> None:
    """Compare the settings of a checkpoint with those of a training.

    Args:
        saved (Dict[str, str], optional): Those of the checkpoint; None if it
            was written without, which is warned of.
        current (Dict[str, str]): Those of the training.
        logger (Logger): Told of differences that are allowed.

    Raises:
        ValueError: If they differ in more than what is allowed.
    """
    if saved is None:
        logger.warning('the checkpoint does not say how it was trained: whether '
                       'this config fits it is not checked')
        return
    different = {
        key: f'{key}: {saved.get(key, "none")} in the checkpoint, '
        f'{current.get(key, "none")} now'
        for key in {**saved, **current}
        if saved.get(key) != current.get(key)
    }
    refused = [text for key, text in different.items() if not _ALLOWED.match(key)]
    # One that is added has no place in its schedule, and would never begin.
    counts = [
        sum(map(bool, map(_SCHEDULER.fullmatch, settings)))
        for settings in (saved, current)
    ]
    if counts[0] != counts[1]:
        refused.append('number of schedulers in param_scheduler: {} in the '
                       'checkpoint, {} now'.format(*counts))
    if refused:
        more = f'\n  and {len(refused) - 10} more' if refused[10:] else ''
        raise ValueError(
            'the checkpoint is of another training and cannot be resumed '
            'from:\n  ' + '\n  '.join(refused[:10]) + more +
            '\nTo go on with that training, put these settings back as they were. '
            'To start a new training from its weights, set load_from and leave out '
            '--resume')
    for text in different.values():
        logger.warning(f'resuming with another setting, {text}')
