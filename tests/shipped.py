"""Configs as they are shipped, shrunk in networks and data alone."""

import copy
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS, init_default_scope
from mmengine.utils import import_modules_from_strings
from mmseg.registry import TRANSFORMS

import bases
from layouts import LAYOUTS
from tiny import UNET, VAE

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / 'configs'
# What commands name: each leads to one of the recipes in configs/semflow.
SHORT_NAMES = sorted(path.stem for path in CONFIGS.glob('*.py'))
COMPARED = sorted(
    f'comparison/{path.stem}' for path in (CONFIGS / 'comparison').glob('*.py'))
# Those of the paper's tables on the paper's data, which end in its name.
PAPERS_DATA = ('cityscapes', 'coco_stuff164k', 'celebamask_hq')
ROWS = [name for name in COMPARED if name.endswith(PAPERS_DATA)]


@cache
def read(name):
    """Read a config, not to be changed, without what it imports."""
    return Config.fromfile(CONFIGS / f'{name}.py', import_custom_modules=False)


def load(name):
    """Give a copy of a config, with its modules imported and mmseg's scope."""
    cfg = copy.deepcopy(read(name))
    import_modules_from_strings(**cfg.custom_imports)
    init_default_scope('mmseg')
    return cfg


def shrink(cfg):
    """Make networks and pictures tiny, of the same kind."""
    size = (32, 64)
    if 'discriminator' in cfg.model:
        # A generator's coarsest cells are of 64 pixels, a discriminator's second
        # scale needs as many.
        size = (64, 128)
    train_set = cfg.train_dataloader.dataset
    if 'crop_size' in train_set:
        train_set.crop_size = (16, 24)
    for dataset in (train_set.get('dataset', train_set),
                    cfg.val_dataloader.dataset, cfg.test_dataloader.dataset):
        for transform in dataset.pipeline:
            if 'scale' in transform:
                transform.scale = size[::-1]
            if 'crop_size' in transform:
                transform.crop_size = (32, 32)
    for part, size_of_part in ((cfg.get('synthesis', {}), size),
                               (cfg.model.get('test_cfg', {}), size),
                               (cfg.model.get('generator', {}), size),
                               (cfg.model.data_preprocessor, (32, 32))):
        if 'size' in part:
            part.size = size_of_part
    return shrink_networks(cfg)


def shrink_networks(cfg):
    """Make networks tiny that see and return as many latents as before."""
    if 'semflow' in cfg.model:
        semflow = cfg.model.semflow
        network = semflow.network
        network.sd_folder = None
        if 'unet' in network:
            network.unet_weights = None
        for wrapper in semflow.get('wrappers', ()):
            if wrapper.get('as_embedding'):
                wrapper.token_channels = 4 * UNET['block_out_channels'][0]
            elif wrapper.type in ('StyleToken', 'TextPrompt'):
                wrapper.token_channels = UNET['cross_attention_dim']
            if wrapper.type == 'TextPrompt':
                wrapper.sd_folder = None
        if 'transformer' in network:
            small, of_autoencoder = bases.of_class(network.transformer.type)
            network.update(small)
            semflow.autoencoder.vae = of_autoencoder['vae']
        else:
            unet = network.unet
            network.unet = dict(
                bases.SDXL_UNET if network.get('picture_size') else UNET,
                in_channels=unet.in_channels,
                out_channels=unet.out_channels,
                class_embed_type=unet.get('class_embed_type'))
        if semflow.autoencoder.type == 'KLAutoencoder' and 'transformer' not in network:
            semflow.autoencoder.vae = VAE
        if 'sd_folder' in semflow.autoencoder:
            semflow.autoencoder.sd_folder = None
        if semflow.autoencoder.type == 'TinyAutoencoder':
            semflow.autoencoder.weights = None
    elif 'discriminator' in cfg.model:
        generator, discriminator = cfg.model.generator, cfg.model.discriminator
        for key in {'channels', 'vector_channels'} & generator.keys():
            generator[key] = [4] * len(generator[key])
        if 'channels' not in generator:
            generator.base_channels = 4
        discriminator.get('patch', discriminator).base_channels = 4
    elif cfg.model.backbone.get('depth') == 50:
        cfg.model.backbone.update(depth=18, base_channels=8, init_cfg=None)
        cfg.model.decode_head.in_channels = [8, 16, 32, 64]
    return cfg


def small(cfg, root, work_dir):
    """Shrink a config to tiny networks on a folder, for one iteration."""
    cfg = on_disk(shrink(cfg), root, work_dir)
    cfg.train_dataloader.batch_size = 2
    if 'num_steps' in cfg.model.test_cfg:
        cfg.model.test_cfg.num_steps = 1
    for hook in cfg.custom_hooks:
        if hook.type == 'SynthesisEvalHook':
            hook.update(interval=1, num_images=1)
            hook.synthesis.update(num_steps=1, segment_steps=1, size=(32, 64))
    return cfg


def lay_out(name, root):
    """Write a small folder of the data that a config is named for."""
    data = name.rsplit('/')[-1]
    write, = (write for key, write in LAYOUTS.items() if key in data)
    write(root)
    return root


def on_disk(cfg, root, work_dir):
    """Let a config find its data in ``root``, and train one iteration."""
    cfg.work_dir = cfg.experiment_name = str(work_dir)
    cfg.log_level = 'WARNING'
    train_set = cfg.train_dataloader.dataset
    for dataset in (train_set.get('dataset', train_set),
                    cfg.val_dataloader.dataset, cfg.test_dataloader.dataset):
        dataset.data_root = str(root)
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].update(
            num_workers=0, persistent_workers=False)
    cfg.train_cfg.update(max_iters=1, val_interval=1)
    return cfg


def fake_pair(folder, num_classes):
    """Write an image and its labels, 96 x 120, and what a dataset says of it."""
    rng = np.random.default_rng(0)
    cv2.imwrite(str(folder / 'a.png'), rng.integers(0, 256, (96, 120, 3)))
    labels = rng.integers(0, num_classes, (96, 120), dtype=np.uint8)
    cv2.imwrite(str(folder / 'a_labels.png'), labels)
    return dict(
        img_path=str(folder / 'a.png'),
        seg_map_path=str(folder / 'a_labels.png'),
        reduce_zero_label=False,
        label_map=None,
        seg_fields=[])


def batch_of(loader, folder, num_classes, count=1):
    """Make a batch of fake pairs by the pipeline of a loader."""
    dataset = loader.dataset
    data = dict(inputs=[], data_samples=[])
    for _ in range(count):
        results = fake_pair(folder, num_classes)
        for transform in dataset.get('dataset', dataset).pipeline:
            results = TRANSFORMS.build(transform)(results)
        for key, values in data.items():
            values.append(results[key])
    return data


def factor(parts, step):
    """Give the factor of the rate at a step: mmengine's LinearLR, closed form."""
    product = 1.
    for part in parts:
        assert part.type == 'LinearLR' and not part.by_epoch
        start, end = part.get('start_factor', 1 / 3), part.get('end_factor', 1.)
        total = part.end - part.begin - 1
        if step >= part.begin:
            done = min(step - part.begin, total) / total
            product *= start + (end - start) * done
    return product


def stepped_factors(parts, steps):
    """Give the factors of the rate as mmengine's schedulers set them."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.)
    schedulers = [
        PARAM_SCHEDULERS.build(dict(part, optimizer=optimizer))
        for part in parts
    ]
    for _ in range(steps):
        yield optimizer.param_groups[0]['lr']
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
