"""Runners of the tests, quickly built."""

from functools import cache
from itertools import count
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from tiny import runner_cfg

_number = count()


@pytest.fixture(scope='session', autouse=True)
def quick_runners():
    """Leave out what nobody reads: it takes longer than a short training."""
    with pytest.MonkeyPatch.context() as patch:
        # Configs, laid out for every log and checkpoint, and the environment.
        patch.setattr('mmengine.config.config.FormatCode',
                      lambda text, **kwargs: (text, True))
        patch.setattr('mmengine.runner.runner.collect_env', dict)
        # For each `mmseg::` in a config, all metafiles of mmsegmentation.
        patch.setattr(Config, '_get_cfg_path',
                      staticmethod(cache(Config._get_cfg_path)))
        yield


def quick_cfg(root, work_dir, max_iters=4, **options):
    """A :func:`runner_cfg` whose values dotted options change.

    Other options replace whole parts of the config.
    """
    cfg = runner_cfg(root, work_dir, max_iters, **{
        key: value for key, value in options.items() if '.' not in key
    })
    # Sharing lists of files with workers collects all garbage of the tests.
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.serialize_data = False
    cfg.merge_from_dict({k: v for k, v in options.items() if '.' in k})
    # mmengine finds the parts of an earlier runner by this name.
    cfg.experiment_name = f'{Path(work_dir).name}_{next(_number)}'
    return cfg


def build_runner(*args, **options):
    """Build the runner of a :func:`quick_cfg`."""
    return Runner.from_cfg(quick_cfg(*args, **options))
