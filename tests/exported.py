"""Shipped recipes with their checkpoints, shrunk in networks and data alone."""

from pathlib import Path

import numpy as np
import torch
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from shipped import load, shrink
from torch import nn

from mmseg_semflow.apis.loading import meta_of_dataset


def recipe(name):
    """Give a shrunk recipe; a token of styles has few, of which two are alike."""
    cfg = shrink(load(name))
    for wrapper in cfg.model.semflow.get('wrappers', ()):
        if wrapper.type == 'StyleToken':
            wrapper.update(num_styles=8, num_alike=2)
    cfg.test_pipeline = cfg.test_dataloader.dataset.pipeline
    return cfg


def write_recipe(name, folder):
    """Write a recipe's config and a checkpoint of weights that all matter."""
    cfg = recipe(name)
    cfg.dump(str(folder / 'config.py'))
    init_default_scope('mmseg')
    torch.manual_seed(1)
    semflow = MODELS.build(cfg.model.semflow)
    nn.init.normal_(semflow.network.unet.conv_out.weight, std=0.3)
    nn.init.normal_(semflow.network.null_prompt)
    if semflow.refiner is not None:
        nn.init.normal_(semflow.refiner.layers[-1].weight, std=0.1)
    for wrapper in semflow.wrappers:
        if hasattr(wrapper, 'styles'):
            for part in (wrapper.styles, wrapper.masks, wrapper.project[-1].weight):
                nn.init.normal_(part)
            wrapper.num_seen.fill_(8)
    meta = meta_of_dataset(cfg)
    torch.save(
        dict(
            state_dict={
                f'semflow.{key}': value
                for key, value in semflow.state_dict().items()
            },
            meta=dict(dataset_meta={k: meta[k] for k in ('classes', 'palette')})),
        folder / 'iter_8.pth')
    return folder / 'config.py', folder / 'iter_8.pth'


def write_picture(path, size=(42, 61)) -> Path:
    """Write a smooth picture of an odd size."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC).save(path)
    return path
