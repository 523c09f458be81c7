"""Fixtures that the tests share."""

import gc
import os

# Before torch is loaded: two threads beside another process stall each other.
os.environ.setdefault('OMP_NUM_THREADS', '1')

import cv2  # noqa: E402
import mmengine.config.config  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402

import mmseg_semflow  # noqa: E402, F401

# Every Runner has yapf format its config, several times and for longer than it
# trains; every dataset of mmengine collects garbage, of which modules are none.
mmengine.config.config.FormatCode = lambda text, **_: (text, True)
gc.freeze()


@pytest.fixture(autouse=True)
def _setup():
    init_default_scope('mmseg')
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture
def street(tmp_path):
    """Write 6 + 4 pairs of 24 x 32 pixels in mmseg's layout, 5 classes."""
    rng = np.random.default_rng(0)
    root = tmp_path / 'street'
    colors = rng.integers(0, 256, (5, 3), dtype=np.uint8)
    for split, count in dict(train=6, val=4).items():
        for kind in ('img_dir', 'ann_dir'):
            (root / kind / split).mkdir(parents=True)
        for i in range(count):
            labels = rng.integers(0, 5, (3, 4), dtype=np.uint8)
            labels = labels.repeat(8, 0).repeat(8, 1)
            labels[:2, :3] = 255
            image = colors[labels % 5]
            cv2.imwrite(str(root / 'img_dir' / split / f'{i}.jpg'), image)
            cv2.imwrite(str(root / 'ann_dir' / split / f'{i}.png'), labels)
    return root
