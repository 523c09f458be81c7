"""Options that tools share, and the config they make."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, List, Optional, Tuple

if TYPE_CHECKING:
    from mmengine.config import Config


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``, which :func:`read_config` takes.

    mmengine's ``DictAction``, but for the values, which stay text until
    mmengine is imported.
    """
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action='extend',
        type=_pair,
        metavar='KEY=VALUE',
        help='keys of the config to change, such as optim_wrapper.optimizer.lr='
        '0.001; lists and tuples as in key="[a,b]", key=a,b or '
        'key="[(a,b),(c,d)]", in quotation marks and without spaces')


def _pair(text: str) -> str:
    if '=' not in text:
        raise argparse.ArgumentTypeError(f'{text!r} must be KEY=VALUE')
    return text


def read_config(path: str, cfg_options: Optional[List[str]] = None) -> 'Config':
    """Read a config, and import what it names.

    Args:
        path (str): Its file.
        cfg_options (List[str], optional): What ``--cfg-options`` got.
            Defaults to None.

    Returns:
        Config: The config.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the options are none of ``DictAction`` or do not fit
            the config.
    """
    from mmengine.config import Config, DictAction
    cfg = Config.fromfile(path)
    options = argparse.Namespace()
    try:
        DictAction([], 'found')(None, options, cfg_options)
        cfg.merge_from_dict(options.found)
    # What mmengine raises for brackets, for lists, and for values with keys.
    except (AssertionError, KeyError, TypeError) as error:
        raise ValueError(
            f'--cfg-options {" ".join(cfg_options)} cannot be merged into '
            f'{path}: {error.args[0]}') from error
    return cfg


def take_rank() -> Tuple[int, int]:
    """Tell which of how many processes of a launcher this is, and take its GPU.

    For tools that share their work by its number and exchange nothing.

    Returns:
        Tuple[int, int]: ``rank`` and ``world_size``; 0 and 1 without a launcher.
    """
    import torch
    rank, world_size, local_rank = (
        int(os.environ.get(name, default))
        for name, default in dict(RANK=0, WORLD_SIZE=1, LOCAL_RANK=0).items())
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
    return rank, world_size


def add_runner_options(parser: argparse.ArgumentParser) -> None:
    """Add what training and testing share, as in mmsegmentation's tools."""
    parser.add_argument(
        '--work-dir',
        help='folder for logs and checkpoints; default: work_dir of the config, '
        'or else work_dirs/ and the name of the config')
    add_cfg_options(parser)
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='what started the processes of a distributed run')
    # torch.distributed.launch has given it both names; torchrun gives neither.
    parser.add_argument(
        '--local_rank', '--local-rank', type=int, default=0,
        help=argparse.SUPPRESS)


def runner_config(args: argparse.Namespace) -> 'Config':
    """Read the config of a runner.

    Args:
        args (argparse.Namespace): ``config`` and what
            :func:`add_runner_options` asks for.

    Returns:
        Config: With ``launcher`` and ``work_dir``.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = read_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs', Path(args.config).stem))
    return cfg
