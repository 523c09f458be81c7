"""Every config loads, builds with tiny networks, and makes a step."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import PARAM_SCHEDULERS, init_default_scope
from mmengine.runner import Runner
from mmseg.registry import DATASETS, MODELS, TRANSFORMS
from mmseg.structures import SegDataSample

from mmseg_semflow.flow import PseudoMaskCodec
from tiny import EIGHTFOLD_VAE, UNET, VAE

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / 'configs').glob('*.py'))
OTHERS = dict(
    ade20k=('ade20k.py', 150),
    coco_stuff164k=('coco-stuff164k.py', 171),
    pascal_voc=('pascal_voc12.py', 21))


def shrink(cfg):
    """Make networks and pictures tiny, of the same kind."""
    # A cache has the pipeline of its images.
    train_set = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = train_set.get('dataset', train_set)
    for loader in (cfg.train_dataloader, cfg.val_dataloader,
                   cfg.test_dataloader):
        for transform in loader.dataset.pipeline:
            if 'scale' in transform:
                transform.scale = (64, 32)
            if 'crop_size' in transform:
                transform.crop_size = (32, 32)
    if 'size' in cfg.get('synthesis', {}):
        cfg.synthesis.size = (32, 64)
    if 'size' in cfg.model.get('test_cfg', {}):
        cfg.model.test_cfg.size = (32, 64)
    if 'size' in cfg.model.data_preprocessor:
        cfg.model.data_preprocessor.size = (32, 32)
    semflow = cfg.model.semflow
    channels = 4
    if semflow.autoencoder.type == 'KLAutoencoder':
        semflow.autoencoder.vae = VAE
    else:
        channels = 3 * semflow.autoencoder.factor**2
    semflow.velocity_net.unet = dict(
        UNET, in_channels=channels, out_channels=channels)
    return cfg


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_config_builds_and_learns_from_its_own_pipeline(path, tmp_path):
    if 'generator' in path.stem:
        pytest.importorskip('mmagic')
    cfg = shrink(Config.fromfile(path))
    assert {'tta_pipeline', 'tta_model'} <= cfg.keys()
    init_default_scope(cfg.default_scope)
    model = ROOT_MODELS.build(cfg.model)
    init_default_scope('mmseg')
    codec = PseudoMaskCodec(**cfg.codec)
    assert model.semflow.codec.spec == codec.spec
    classes = DATASETS.get(cfg.train_dataloader.dataset.type).METAINFO['classes']
    assert len(classes) == codec.num_classes

    results = fake_pair(tmp_path, codec.num_classes)
    for transform in cfg.train_dataloader.dataset.pipeline:
        results = TRANSFORMS.build(transform)(results)
    batch = model.data_preprocessor(
        dict(inputs=[results['inputs']],
             data_samples=[results['data_samples']]), True)
    losses = model(**batch, mode='loss')
    assert all(loss.isfinite() for loss in losses.values())

    results = fake_pair(tmp_path, codec.num_classes)
    for transform in cfg.test_dataloader.dataset.pipeline:
        results = TRANSFORMS.build(transform)(results)
    model.test_cfg['num_steps'] = 1
    if 'generator' in path.stem:
        model.test_cfg.update(num_samples=1, segment_steps=1)
    found = model.eval().test_step(
        dict(inputs=[results['inputs']],
             data_samples=[results['data_samples']]))[0]
    if 'generator' in path.stem:
        assert found.fake_img.shape == found.gt_img.shape
        assert found.gt_label_map.shape == found.gt_img.shape[-2:]
        return
    assert isinstance(found, SegDataSample)
    assert found.pred_sem_seg.shape == (96, 120)


def fake_pair(folder, num_classes):
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


def test_cityscapes_is_the_recipe_of_the_paper():
    cfg = Config.fromfile(ROOT / 'configs/semflow_cityscapes.py')
    assert cfg.codec == dict(
        num_classes=19, divisions=6, spacing=50, amplitude=6)
    assert 8 * cfg.train_dataloader.batch_size == 256
    assert cfg.train_cfg.max_iters == 8000
    assert cfg.optim_wrapper.optimizer == dict(
        type='AdamW', lr=5e-5, betas=(0.9, 0.999), weight_decay=0.01)
    assert cfg.optim_wrapper.clip_grad == dict(max_norm=1.)
    semflow = cfg.model.semflow
    assert semflow.get('one_step_loss') is None
    assert not semflow.get('ignore_void', False)
    assert cfg.model.test_cfg == dict(
        mode='whole', num_steps=25, solver='euler')


def test_networks_of_the_paper_have_the_size_of_sd15():
    cfg = Config.fromfile(ROOT / 'configs/semflow_cityscapes.py')
    with torch.device('meta'):
        velocity_net = MODELS.build(cfg.model.semflow.velocity_net)
        autoencoder = MODELS.build(cfg.model.semflow.autoencoder)
    assert sum(p.numel() for p in velocity_net.parameters()) == 859_520_964
    assert sum(p.numel() for p in autoencoder.parameters()) == 83_653_863
    assert velocity_net.null_prompt.shape == (1, 77, 768)
    assert autoencoder.factor == 8


@pytest.mark.parametrize('warmup, total', [(500, 8000), (500, 80000)])
def test_schedule_is_linear_warm_up_and_decay(warmup, total):
    name = f'semflow_{total // 1000}k.py'
    cfg = Config.fromfile(ROOT / 'configs/_base_/schedules' / name)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.)
    schedulers = [
        PARAM_SCHEDULERS.build(dict(part, optimizer=optimizer))
        for part in cfg.param_scheduler
    ]
    for i in range(total):
        expected = min(i / warmup, (total - i) / (total - warmup))
        assert optimizer.param_groups[0]['lr'] == pytest.approx(
            expected, abs=2e-5)
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()


@pytest.mark.parametrize('name', OTHERS)
def test_other_datasets_of_mmseg_in_ten_lines(name, tmp_path):
    """The README's recipe, on data in the layout of each dataset."""
    dataset, num_classes = OTHERS[name]
    readme = (ROOT / 'README.md').read_text()
    recipe = readme.split('<!-- other-dataset -->')[1].split('```')[1]
    lines = recipe.removeprefix('python\n').strip().splitlines()
    assert len(lines) < 10
    text = '\n'.join(lines)
    text = text.replace('ade20k.py', dataset)
    text = text.replace('num_classes=150', f'num_classes={num_classes}')
    text = text.replace("'./", f"'{ROOT}/configs/")
    (tmp_path / 'config.py').write_text(text)
    cfg = shrink(Config.fromfile(tmp_path / 'config.py'))
    write_dataset(cfg, tmp_path / 'data', num_classes)
    cfg.work_dir = str(tmp_path / 'work')
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.dataset.data_root = str(tmp_path / 'data')
        loader.update(batch_size=1, num_workers=0, persistent_workers=False)
    cfg.model.semflow.velocity_net.sd_folder = None
    cfg.model.semflow.autoencoder.sd_folder = None
    cfg.model.semflow.autoencoder.vae = EIGHTFOLD_VAE
    cfg.model.test_cfg.num_steps = 1
    cfg.optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-4))
    cfg.train_cfg.update(max_iters=1, val_interval=1)
    cfg.log_level = 'WARNING'
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert 0 <= runner.test()['mIoU'] <= 100


def write_dataset(cfg, root, num_classes):
    """Write one pair a split where the config looks for it."""
    rng = np.random.default_rng(0)
    init_default_scope('mmseg')
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        dataset_cfg = loader.dataset
        dataset = DATASETS.get(dataset_cfg.type)
        offset = int(dataset is DATASETS.get('ADE20KDataset'))
        labels = rng.integers(
            offset, num_classes + offset, (40, 61), dtype=np.uint8)
        suffix = '_labelTrainIds.png' if 'COCO' in dataset_cfg.type else '.png'
        prefix = dataset_cfg.data_prefix
        for kind, name, picture in (
            ('img_path', 'a.jpg', rng.integers(0, 256, (40, 61, 3))),
            ('seg_map_path', f'a{suffix}', labels)):
            path = root / prefix[kind] / name
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), picture)
        if dataset_cfg.get('ann_file'):
            path = root / dataset_cfg.ann_file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text('a\n')


def test_demo_on_a_tiny_street(tmp_path):
    """tools/demo.py as `make demo` calls it, with a short training."""
    config = tmp_path / 'short.py'
    config.write_text(f'''
_base_ = '{ROOT}/configs/semflow_toy.py'
generate = dict(num_train=8, num_val=6, size=(32, 32), seed=0)
train_dataloader = dict(
    batch_size=2, dataset=dict(data_root='street', generate=generate))
val_dataloader = dict(dataset=dict(data_root='street', generate=generate))
test_dataloader = val_dataloader
train_cfg = dict(max_iters=2, val_interval=2)
''')
    subprocess.run([
        sys.executable, str(ROOT / 'tools/demo.py'), '--config', str(config),
        '--work-dir', 'out', '--num-steps', '1', '3', '--num-masks', '4'
    ], cwd=tmp_path, check=True, capture_output=True)
    results = json.loads((tmp_path / 'out/results.json').read_text())
    assert results['miou_by_num_steps'].keys() == {'1', '3'}
    assert results['synthesis'].keys() >= {'mask_mIoU', 'diversity'}
    assert results['synthesis']['protocol'].startswith('4 masks, 3 samples')
    assert results['iterations'] == 2 and results['training_seconds'] > 0
    assert torch.__version__.startswith(results['versions']['torch'])
    height, width = cv2.imread(str(tmp_path / 'out/gallery.png')).shape[:2]
    assert min(width, height) > 300
