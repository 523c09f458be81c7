"""The configs of mmsegmentation's and our own segmentors to compare with."""

import argparse

import pytest
import torch
from mmengine.config import Config, DictAction
from mmengine.registry import MODELS as ROOT_MODELS
from mmseg.registry import DATASETS, MODELS, TRANSFORMS
from test_configs import ROOT, fake_pair

from tiny import UNET

COMMON = {
    name: Config.fromfile(ROOT / f'configs/_base_/comparison/{base}.py')
    for name, base in (('camvid', 'camvid'), ('toy', 'toy_street'))
}
PATHS = [
    path for name in COMMON
    for path in sorted((ROOT / 'configs/comparison').glob(f'*_{name}.py'))
]


def read(path):
    """Read a config without what it imports, which may want mmagic."""
    return Config.fromfile(path, import_custom_modules=False)


SEGMENTORS = [path for path in PATHS if read(path).default_scope == 'mmseg']


@pytest.mark.parametrize('path', PATHS, ids=lambda path: path.stem)
def test_equal_budgets(path):
    cfg, common_cfg = read(path), COMMON[path.stem.rsplit('_', 1)[1]]
    for key in ('train_cfg.max_iters', 'train_dataloader.batch_size',
                'train_dataloader.dataset.data_prefix', 'test_evaluator.type',
                'test_dataloader.dataset.data_prefix'):
        if key == 'test_evaluator.type' and cfg.default_scope == 'mmagic':
            continue
        own, common = cfg, common_cfg
        for part in key.split('.'):
            own, common = own[part], common[part]
        assert own == common, key
    crops, common_crops = ([
        transform.crop_size for transform in pipeline
        if transform.type == 'RandomCrop'
    ] for pipeline in (cfg.train_dataloader.dataset.pipeline,
                       common_cfg.train_dataloader.dataset.pipeline))
    assert crops == common_crops


@pytest.mark.parametrize('path', SEGMENTORS, ids=lambda path: path.stem)
def test_segmentor_learns_and_predicts(path, tmp_path):
    if 'maskformer' in path.stem:
        pytest.importorskip('mmdet')
    cfg = Config.fromfile(path)
    if 'semflow' in cfg.model:
        net = cfg.model.semflow.velocity_net
        net.unet = dict(
            UNET,
            in_channels=net.unet.in_channels,
            out_channels=net.unet.out_channels)
        cfg.model.test_cfg.num_steps = 1
    model = MODELS.build(cfg.model)
    dataset = DATASETS.get(cfg.train_dataloader.dataset.type)
    num_classes = len(dataset.METAINFO['classes'])
    assert model.out_channels == num_classes

    batch = dict(inputs=[], data_samples=[])
    for _ in range(2):
        item = through(cfg.train_dataloader, fake_pair(tmp_path, num_classes))
        batch['inputs'].append(item['inputs'])
        batch['data_samples'].append(item['data_samples'])
    losses = model(**model.data_preprocessor(batch, True), mode='loss')
    total, _ = model.parse_losses(losses)
    total.backward()
    missing = [
        name for name, weight in model.named_parameters()
        if weight.requires_grad and weight.grad is None
    ]
    assert total.isfinite() and not missing

    item = through(cfg.test_dataloader, fake_pair(tmp_path, num_classes))
    found, = model.eval().test_step(
        dict(inputs=[item['inputs']], data_samples=[item['data_samples']]))
    assert found.pred_sem_seg.shape == (96, 120)
    assert 0 <= found.pred_sem_seg.data.min()
    assert found.pred_sem_seg.data.max() < num_classes


def through(loader, results):
    for transform in loader.dataset.pipeline:
        results = TRANSFORMS.build(transform)(results)
    return results


PAGE = (ROOT / 'docs/results.md').read_text()
OPTIONS = [
    line.split(' | ')[-1].strip('` |')
    for line in PAGE.split('| the ablation |')[1].split('\n\n')[0].splitlines()[2:]
]


@pytest.mark.parametrize('text', OPTIONS)
def test_options_of_the_ablations(text, tmp_path):
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    options = parser.parse_args(['--cfg-options', *text.split()]).cfg_options
    drawing = 'model.test_cfg.amplitude' in options
    if drawing:
        pytest.importorskip('mmagic')
    cfg = Config.fromfile(
        ROOT / 'configs' /
        f'semflow_{"generator_camvid" if drawing else "camvid_paper_objective"}.py')
    before = cfg.to_dict()
    cfg.merge_from_dict(options)
    assert cfg.to_dict() != before
    cfg.model.semflow.velocity_net.unet = dict(
        UNET, in_channels=48, out_channels=48)
    with ROOT_MODELS.switch_scope_and_registry(cfg.default_scope) as models:
        model = models.build(cfg.model)
    item = through(cfg.train_dataloader, fake_pair(tmp_path, 11))
    batch = {key: [value] for key, value in item.items()}
    model(**model.data_preprocessor(batch, True), mode='loss')
    if drawing:
        assert model.test_cfg['amplitude'] == 30
    semflow, path = model.semflow, model.semflow.path
    for key, found in {
            'ignore_void': semflow.ignore_void,
            'time_sampling': path.time_sampling,
            'start_fraction': path.start_fraction,
            'codec.amplitude': semflow.codec.amplitude
    }.items():
        assert found == options.get(f'model.semflow.{key}', found)


def test_the_page_has_options():
    assert len(OPTIONS) == 7 and all('=' in text for text in OPTIONS)


def test_dsm_of_the_paper_widens_stable_diffusion():
    path = ROOT / 'configs/comparison/dsm_cityscapes.py'
    cfg = Config.fromfile(path)
    assert (cfg.model.type, cfg.model.semflow.type) == ('DSM', 'DSMModel')
    with torch.device('meta'):
        net = MODELS.build(cfg.model.semflow.velocity_net)
    assert net.unet.conv_in.weight.shape == (320, 8, 3, 3)
    extra = 320 * 4 * 9
    assert sum(p.numel() for p in net.parameters()) == 859_520_964 + extra
    assert cfg.custom_hooks and 'SynthesisEvalHook' not in [
        hook.type for hook in cfg.custom_hooks]
