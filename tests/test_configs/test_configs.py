"""Every config builds with tiny networks, and learns from its own pipeline."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.registry import DATASETS, MODELS
from mmseg.structures import SegDataSample
from shipped import (
    ROOT,
    SHORT_NAMES,
    batch_of,
    factor,
    load,
    on_disk,
    read,
    shrink,
    stepped_factors,
)

from mmseg_semflow.flow import PseudoMaskCodec
from tiny import EIGHTFOLD_VAE

OTHERS = dict(
    ade20k=('ade20k.py', 150),
    coco_stuff164k=('coco-stuff164k.py', 171),
    pascal_voc=('pascal_voc12.py', 21))


@pytest.mark.parametrize('name', SHORT_NAMES)
def test_config_builds_and_learns_from_its_own_pipeline(name, tmp_path):
    generates = 'generator' in name
    if generates:
        pytest.importorskip('mmagic')
    if 'lora' in read(name).model.semflow.network:
        pytest.importorskip('peft')
    cfg = shrink(load(name))
    assert {'tta_pipeline', 'tta_model'} <= cfg.keys()
    with ROOT_MODELS.switch_scope_and_registry(cfg.default_scope) as models:
        model = models.build(cfg.model)
    codec = PseudoMaskCodec(**cfg.codec)
    assert model.semflow.codec.spec == codec.spec
    dataset = cfg.train_dataloader.dataset
    dataset = DATASETS.get(dataset.get('dataset', dataset).type)
    assert len(dataset.METAINFO['classes']) == codec.num_classes

    batch = batch_of(cfg.train_dataloader, tmp_path, codec.num_classes)
    losses = model(**model.data_preprocessor(batch, True), mode='loss')
    total, _ = model.parse_losses(losses)
    total.backward()
    assert total.isfinite()
    assert all(p.grad is not None for p in model.semflow.network.parameters()
               if p.requires_grad)

    if cfg.model.test_cfg.get('mode') == 'none':
        return
    model.test_cfg['num_steps'] = 1
    if generates:
        model.test_cfg.update(num_samples=1, segment_steps=1)
    found, = model.eval().test_step(
        batch_of(cfg.test_dataloader, tmp_path, codec.num_classes))
    if generates:
        assert found.fake_img.shape == found.gt_img.shape
        assert found.gt_label_map.shape == found.gt_img.shape[-2:]
        return
    assert isinstance(found, SegDataSample)
    assert found.pred_sem_seg.shape == (96, 120)


def test_networks_of_the_paper_have_the_size_of_sd15():
    semflow = load('semflow_cityscapes').model.semflow
    with torch.device('meta'):
        network = MODELS.build(semflow.network)
        autoencoder = MODELS.build(semflow.autoencoder)
    assert sum(p.numel() for p in network.parameters()) == 859_520_964
    assert sum(p.numel() for p in autoencoder.parameters()) == 83_653_863
    assert network.null_prompt.shape == (1, 77, 768)
    assert autoencoder.factor == 8


def test_schedules_in_closed_form_are_those_of_mmengine():
    parts = read('_base_/schedules/semflow_tiny').param_scheduler
    expected = [factor(parts, step) for step in range(1700)]
    assert list(stepped_factors(parts, 1700)) == pytest.approx(
        expected, abs=1e-9)
    assert max(expected) == 1.


@pytest.mark.parametrize('warmup, total', [(500, 8000), (500, 80000)])
def test_schedule_is_linear_warm_up_and_decay(warmup, total):
    cfg = read(f'_base_/schedules/semflow_{total // 1000}k')
    for i in range(0, total, 7):
        expected = min(i / warmup, (total - i) / (total - warmup))
        assert factor(cfg.param_scheduler, i) == pytest.approx(
            expected, abs=2e-5)


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
    cfg = on_disk(cfg, tmp_path / 'data', tmp_path / 'work')
    cfg.train_dataloader.batch_size = 1
    cfg.model.semflow.autoencoder.vae = EIGHTFOLD_VAE
    cfg.model.test_cfg.num_steps = 1
    cfg.optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-4))
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert 0 <= runner.test()['mIoU'] <= 100


def write_dataset(cfg, root, num_classes):
    """Write one pair per split where the config looks for it."""
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


@pytest.mark.process
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
