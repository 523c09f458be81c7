"""The configs of mmsegmentation's and our own segmentors to compare with."""

import argparse
import re

import pytest
import torch
from mmengine.config import DictAction
from mmengine.registry import MODELS as ROOT_MODELS
from mmseg.registry import DATASETS, MODELS
from shipped import COMPARED, ROOT, batch_of, load, read, shrink_networks

COMMON = dict(camvid='camvid', toy='toy_street')
BUDGETED = [name for name in COMPARED if name.rsplit('_', 1)[1] in COMMON]
SEGMENTORS = [name for name in BUDGETED if read(name).default_scope == 'mmseg']


@pytest.mark.parametrize('name', BUDGETED)
def test_equal_budgets(name):
    cfg = read(name)
    common_cfg = read(f"_base_/comparison/{COMMON[name.rsplit('_', 1)[1]]}")
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


@pytest.mark.parametrize('name', SEGMENTORS)
def test_segmentor_learns_and_predicts(name, tmp_path):
    if 'maskformer' in name:
        pytest.importorskip('mmdet')
    cfg = shrink_networks(load(name))
    if 'semflow' in cfg.model:
        cfg.model.test_cfg.num_steps = 1
    model = MODELS.build(cfg.model)
    dataset = DATASETS.get(cfg.train_dataloader.dataset.type)
    num_classes = len(dataset.METAINFO['classes'])
    assert model.out_channels == num_classes

    batch = batch_of(cfg.train_dataloader, tmp_path, num_classes, count=2)
    losses = model(**model.data_preprocessor(batch, True), mode='loss')
    total, _ = model.parse_losses(losses)
    total.backward()
    missing = [
        name for name, weight in model.named_parameters()
        if weight.requires_grad and weight.grad is None
    ]
    assert total.isfinite() and not missing

    found, = model.eval().test_step(
        batch_of(cfg.test_dataloader, tmp_path, num_classes))
    assert found.pred_sem_seg.shape == (96, 120)
    assert 0 <= found.pred_sem_seg.data.min()
    assert found.pred_sem_seg.data.max() < num_classes


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
    cfg = load(f'semflow_{"generator_camvid" if drawing else "camvid_paper_objective"}')
    before = cfg.to_dict()
    cfg.merge_from_dict(options)
    assert cfg.to_dict() != before
    with ROOT_MODELS.switch_scope_and_registry(cfg.default_scope) as models:
        model = models.build(shrink_networks(cfg).model)
    batch = batch_of(cfg.train_dataloader, tmp_path, 11)
    model(**model.data_preprocessor(batch, True), mode='loss')
    if drawing:
        assert model.synthesizer().amplitude == 30
    semflow, path = model.semflow, model.semflow.process.path
    for key, found in {
            'losses.0.ignore_void': semflow.losses[0].ignore_void,
            'process.time_sampling': path.time_sampling,
            'process.start_fraction': path.start_fraction,
            'codec.amplitude': semflow.codec.amplitude
    }.items():
        assert found == options.get(f'model.semflow.{key}', found)
    assert (semflow.codec.spec['codes'] == tuple(range(11))) == (
        'model.semflow.codec.codes' in options)


def test_the_page_has_options():
    assert len(OPTIONS) == 7 and all('=' in text for text in OPTIONS)


def test_the_page_clips_what_dsm_predicts():
    option, = re.findall(r'model\.semflow\.\S+clip_sample=True', PAGE)
    cfg = load('comparison/dsm_toy')
    assert not MODELS.build(cfg.model.semflow.process).scheduler['clip_sample']
    cfg.merge_from_dict({option.removesuffix('=True'): True})
    assert MODELS.build(cfg.model.semflow.process).scheduler['clip_sample']


def test_dsm_of_the_paper_widens_stable_diffusion():
    cfg = load('comparison/dsm_cityscapes')
    assert cfg.model.type == 'SemFlow'
    assert cfg.model.semflow.process == dict(type='Diffusion')
    with torch.device('meta'):
        net = MODELS.build(cfg.model.semflow.network)
    assert net.unet.conv_in.weight.shape == (320, 8, 3, 3)
    extra = 320 * 4 * 9
    assert sum(p.numel() for p in net.parameters()) == 859_520_964 + extra
    assert cfg.custom_hooks and 'SynthesisEvalHook' not in [
        hook.type for hook in cfg.custom_hooks]
