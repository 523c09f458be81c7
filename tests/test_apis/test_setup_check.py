"""What is checked before a training: every fault is named, none hides another."""

import logging
import re
import runpy
import shutil
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import Runner
from safetensors.torch import load_file, save_file
from torch._subclasses.fake_tensor import FakeTensor

from bases import parts_of
from mmseg_semflow.apis import setup_check
from mmseg_semflow.apis.latent_cache import cache_latents
from mmseg_semflow.apis.setup_check import SetupCheck
from mmseg_semflow.networks.pretrained import headers_alone
from tiny import (
    CODEC,
    UNET,
    VAE,
    runner_cfg,
    save_old_checkpoint,
    segmentor_cfg,
    transforms_pipeline,
    write_sd_folder,
)

ROOT = Path(__file__).parents[2]
PARTS = setup_check.PARTS
WEIGHTS = ['weights of the network', 'weights of the autoencoder']
SUBJECTS = [
    'versions', 'train data', 'val data', 'metrics', 'GPU memory', 'disk'
]
ESTIMATE = dict(
    parameters=4 * 10**9, gradients=4 * 10**9, optimizer=8 * 10**9,
    autoencoder=10**9, ema=0, ddp_buckets=0, activations=3 * 10**9,
    total=20 * 10**9)


@pytest.fixture
def cfg(street, tmp_path):
    """A config for which all is there: 6 + 4 pairs of 24 x 32, 5 classes."""
    cfg = runner_cfg(street, tmp_path / 'work')
    cfg.model.data_preprocessor.size = (24, 32)
    cfg.default_hooks.checkpoint.update(interval=1, max_keep_ckpts=2)
    for split in ('train', 'val'):
        # Serializing collects all garbage of the tests every time.
        cfg[f'{split}_dataloader'].dataset.serialize_data = False
    return cfg


@pytest.fixture(scope='session')
def sd_folder(tmp_path_factory):
    return write_sd_folder(tmp_path_factory.mktemp('weights') / 'sd')


@pytest.fixture
def sd_cfg(cfg, sd_folder, tmp_path):
    """The same with weights, which are checked with it alone."""
    folder = str(shutil.copytree(sd_folder, tmp_path / 'sd'))
    cfg.model = dict(
        segmentor_cfg(
            network=dict(type='VelocityUNet', unet=UNET, sd_folder=folder),
            autoencoder=dict(type='KLAutoencoder', vae=VAE, sd_folder=folder)),
        data_preprocessor=cfg.model.data_preprocessor)
    return cfg


@pytest.fixture(autouse=True)
def _quickly(request, monkeypatch):
    # Tensors without data take seconds.
    if 'sd_cfg' not in request.fixturenames:
        monkeypatch.setattr(setup_check, 'PARTS', ())
    if 'real' not in request.node.name:
        monkeypatch.setattr(setup_check, 'estimate_training_memory',
                            lambda *_, **__: ESTIMATE)
        give_disk(monkeypatch, 100)


def give_disk(monkeypatch, gigabytes):
    monkeypatch.setattr(
        shutil, 'disk_usage',
        lambda _: SimpleNamespace(free=gigabytes * 10**9))


def check(cfg, **kwargs):
    return list(SetupCheck(cfg, **kwargs).run())


def the_fault(findings, level='error'):
    """Take the one finding that is not ok, and see that all else was checked."""
    bad, = (finding for finding in findings if finding.level != 'ok')
    assert bad.level == level, bad
    assert {finding.subject for finding in findings} >= set(SUBJECTS)
    return f'{bad.subject}: {bad.text}'


def test_all_is_well_with_the_real_estimate(sd_cfg, tmp_path):
    """It goes on to train, and the checkpoint has the size foretold."""
    wide = dict(UNET, block_out_channels=(32, 64))
    sd_cfg.model.semflow.network.unet = wide
    shutil.rmtree(tmp_path / 'sd')
    write_sd_folder(tmp_path / 'sd', unet=wide)
    findings = check(sd_cfg)
    assert {finding.level for finding in findings} == {'ok'}, findings
    subjects = SUBJECTS[:1] + WEIGHTS + SUBJECTS[1:]
    assert [finding.subject for finding in findings] == subjects
    found = {finding.subject: finding.text for finding in findings}
    # As pip knows it: the CUDA build of PyPI calls itself 2.13.0+cu130.
    assert f'torch {torch.__version__.partition("+")[0]}' in found['versions']
    assert str(tmp_path / 'sd') in found['weights of the autoencoder']
    assert '6 pairs in' in found['train data']
    assert '6 of them were read, inputs are (3, 24, 32)' in found['train data']
    assert '4 pairs in' in found['val data']
    if not torch.cuda.is_available():
        assert 'no GPU here to compare it with' in found['GPU memory']
    assert '3 checkpoints of' in found['disk']
    size = float(found['disk'].split(' GB')[0].split()[-1]) * 1e9
    sd_cfg.train_cfg.update(max_iters=1, val_interval=2)
    Runner.from_cfg(sd_cfg).train()
    written = (tmp_path / 'work/iter_1.pth').stat().st_size
    assert size == pytest.approx(written, rel=0.25)


def test_weights_from_nothing_are_well(sd_cfg):
    for part in ('network', 'autoencoder'):
        sd_cfg.model.semflow[part].sd_folder = None
    findings = check(sd_cfg)
    assert {finding.level for finding in findings} == {'ok'}
    assert 'it starts from nothing' in findings[1].text


def test_a_generator_is_checked_too(cfg):
    pytest.importorskip('mmagic')
    import mmseg_semflow.models.generators  # noqa: F401
    cfg.default_scope = 'mmagic'
    cfg.model.type = 'SemFlowGenerator'
    cfg.model.data_preprocessor.type = 'SemFlowGeneratorDataPreProcessor'
    for split in ('train', 'val'):
        cfg[f'{split}_dataloader'].dataset._scope_ = 'mmseg'
    cfg.val_evaluator = dict(type='Evaluator', metrics=[
        dict(type='MaskConsistency'), dict(type='RoundTrip')])
    findings = check(cfg)
    assert {finding.level for finding in findings} == {'ok'}, findings


def version_2(cfg, folder):
    shutil.rmtree(folder / 'sd/unet')
    write_sd_folder(folder / '2', unet=dict(UNET, cross_attention_dim=1024))
    shutil.move(folder / '2/unet', folder / 'sd/unet')


def other_width(cfg, folder):
    cfg.model.semflow.network.unet.block_out_channels = (16, 16)


def truncated(cfg, folder):
    path = folder / 'sd/vae/diffusion_pytorch_model.safetensors'
    path.write_bytes(path.read_bytes()[:-100])


def no_text_encoder(cfg, folder):
    shutil.rmtree(folder / 'sd/text_encoder')


def no_unet_weights(cfg, folder):
    cfg.model.semflow.network.unet_weights = 'face.pt'


def torn_unet_weights(cfg, folder):
    torch.save(torch.zeros(1000), folder / 'face.pt')
    (folder / 'face.pt').write_bytes((folder / 'face.pt').read_bytes()[:500])
    cfg.model.semflow.network.unet_weights = str(folder / 'face.pt')


def no_folder(cfg, folder):
    (folder / 'street/img_dir/val').rename(folder / 'street/img_dir/test')


def no_label_map(cfg, folder):
    (folder / 'street/ann_dir/train/3.png').unlink()


def damaged_image(cfg, folder):
    path = folder / 'street/img_dir/train/5.jpg'
    path.write_bytes(path.read_bytes()[:50])


def no_class(cfg, folder):
    path = str(folder / 'street/ann_dir/val/2.png')
    labels = cv2.imread(path, 0)
    labels[0, 5] = 7
    cv2.imwrite(path, labels)


def other_shape(cfg, folder):
    cv2.imwrite(str(folder / 'street/ann_dir/train/0.png'),
                np.zeros((24, 30), np.uint8))


def other_number_of_classes(cfg, folder):
    cfg.val_dataloader = None
    cfg.model.semflow.codec.num_classes = 6


def other_codec_of_the_data(cfg, folder):
    """As where an ablation sets one of the two."""
    cfg.train_dataloader.dataset.pipeline = transforms_pipeline(
        dict(CODEC, amplitude=3))


def other_padding(cfg, folder):
    cfg.model.data_preprocessor.seg_pad_val = 0


def odd_size(cfg, folder):
    cfg.model.data_preprocessor = dict(
        type='SemFlowDataPreProcessor', size=(25, 32))


def wrong_key(cfg, folder):
    cfg.train_dataloader.dataset.pipeline[2].probability = 0.3


WEIGHT_FAULTS = {
    version_2: 'network: .*unet .Stable Diffusion 2. has '
               'cross_attention_dim=1024, but this config has .*=16: they must',
    other_width: 'network: .*unet does not fit .*shape',
    truncated: 'autoencoder: .*/vae/diffusion_pytorch_model.safetensors',
    no_text_encoder: 'network: .*text_encoder is not a folder. Put .*, with the '
                     'subfolders tokenizer, text_encoder, or set sd_folder',
    no_unet_weights: 'network: face.pt is not a file of weights',
    torn_unet_weights: 'network: .*face.pt cannot be read: it is truncated',
}
DATA_FAULTS = {
    no_folder: 'val data: .*finds no pair.*\nexpected.*\nfound: there is no '
               '.*img_dir/val',
    no_label_map: 'train data: 1 files of the 6 pairs in .*street are missing, '
                  'for example .*ann_dir/train/3.png: put',
    damaged_image: 'train data: .*img_dir/train/5.jpg cannot be read: it is '
                   'damaged.* Mend the file',
    no_class: r'val data: .*ann_dir/val/2.png has the labels \[7\]: labels must '
              'be below num_classes=5 or 255',
    other_shape: r'train data: .*0.png has the shape \(24, 30\), but .*0.jpg has '
                 r'\(24, 32\) .height, width.: every pixel needs one label',
    other_number_of_classes: 'train data: the dataset has 5 classes, but .*codec '
                             'has num_classes=6: they must be the same',
    other_codec_of_the_data: "train data: the data are made by the codec .*'amp"
                             "litude': 3.* but that of the model is .*: 6",
    other_padding: 'train data: seg_pad_val .* must be ignore_index=255 .* got 0',
    odd_size: 'train data: images of 25x32 .*multiples of 2',
    wrong_key: "train data: TypeError: .*unexpected keyword .*'probability'",
}


def name_of(fault):
    return fault.__name__


@pytest.mark.parametrize('fault', DATA_FAULTS, ids=name_of)
def test_a_fault_of_the_data(fault, cfg, tmp_path):
    fault(cfg, tmp_path)
    bad, = (finding for finding in check(cfg) if finding.level != 'ok')
    assert bad.level == 'error'
    text = f'{bad.subject}: {bad.text}'
    assert re.search(f'(?s){DATA_FAULTS[fault]}', text), text


@pytest.mark.parametrize('fault', WEIGHT_FAULTS, ids=name_of)
def test_a_fault_of_the_weights(fault, sd_cfg, tmp_path):
    fault(sd_cfg, tmp_path)
    text = the_fault(check(sd_cfg))
    assert re.search(f'(?s)weights of the {WEIGHT_FAULTS[fault]}', text), text


def test_all_faults_are_named(sd_cfg, tmp_path, monkeypatch):
    """Also in one dataset, and whatever stands before them."""
    for fault in (no_text_encoder, truncated, no_label_map, damaged_image,
                  other_shape, no_class):
        fault(sd_cfg, tmp_path)
    give_disk(monkeypatch, 1)
    errors = [f.subject for f in check(sd_cfg) if f.level == 'error']
    assert errors == [*WEIGHTS, *['train data'] * 3, 'val data', 'disk']


def test_pairs_are_spread_over_the_dataset(cfg, tmp_path):
    damaged_image(cfg, tmp_path)
    finding = next(f for f in check(cfg, num_pairs=1) if f.subject == 'train data')
    assert finding.level == 'ok' and '1 of them were read' in finding.text
    assert '5.jpg cannot be read' in the_fault(check(cfg, num_pairs=2))


def test_a_dataset_of_several_is_not_checked(cfg):
    cfg.train_dataloader.dataset = dict(
        type='ConcatDataset', datasets=[cfg.train_dataloader.dataset])
    text = the_fault(check(cfg), 'warning')
    assert "train_dataloader.dataset.type='ConcatDataset' has no" in text


def test_an_incomplete_cache(cfg, tmp_path):
    cache_latents(cfg, tmp_path / 'cache', 1, 'cpu', shard_size=2)
    cfg.train_dataloader.dataset = dict(
        type='CachedLatentsDataset', cache=str(tmp_path / 'cache'),
        dataset=cfg.train_dataloader.dataset)
    findings = check(cfg)
    assert {finding.level for finding in findings} == {'ok'}
    assert 'inputs are (2, 12, 12, 16)' in findings[1].text
    (tmp_path / 'cache/00001.safetensors').unlink()
    text = the_fault(check(cfg))
    assert 'cache is not complete: 1 of 3 files are missing' in text
    assert 'tools/cache_latents.py' in text


@pytest.mark.parametrize('gpus, free, level, text', [
    (1, 24, 'ok', 'GPU 0 has 24.0 GB free'),
    (2, 22, 'warning', 'GPU 1 has 21.0 GB free'),
    (2, 16, 'error', 'lower train_dataloader.batch_size'),
    (4, 80, 'error', '4 processes were asked for, but this host has 2 GPUs')])
def test_memory_of_the_gpus(gpus, free, level, text, cfg, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.setattr(torch.cuda, 'mem_get_info',
                        lambda i: ((free - i) * 10**9, 80 * 10**9))
    memory = SetupCheck(cfg, num_gpus=gpus)
    try:
        (found, said), = memory._check_memory()
    except ValueError as error:
        found, said = 'error', str(error)
    assert found == level and text in said
    if level == 'error' and gpus == 2:
        memory.cfg.strategy = dict(type='PartialFSDPStrategy')
        (found, said), = memory._check_memory()
        assert found == 'warning' and 'PartialFSDPStrategy needs less' in said


def test_the_real_estimate_tells_a_size_that_the_base_cannot_take(cfg):
    network, autoencoder = parts_of('dit')
    cfg.model = dict(
        segmentor_cfg(network=network, autoencoder=autoencoder),
        data_preprocessor=cfg.model.data_preprocessor)
    found = {finding.subject: finding for finding in SetupCheck(cfg).run()}
    assert found['GPU memory'].level == 'error'
    assert 'takes square latents alone, but got 12x16' in found['GPU memory'].text


def test_room_for_one_more_checkpoint_than_is_kept(cfg, monkeypatch, tmp_path):
    """Each has 4 + 8 + 1 GB; those of a stopped training are there already."""
    give_disk(monkeypatch, 38)
    text = the_fault(check(cfg))
    assert '3 checkpoints of 13 GB are to lie in' in text
    assert '38 GB are free' in text and 'max_keep_ckpts (now 2' in text
    work = tmp_path / 'work'
    work.mkdir()
    with open(work / 'iter_1.pth', 'wb') as file:
        file.truncate(2 * 10**9)
    assert {finding.level for finding in check(cfg)} == {'ok'}
    cfg.default_hooks.checkpoint.update(max_keep_ckpts=-1)
    assert '4 checkpoints of' in the_fault(check(cfg))
    cfg.default_hooks.checkpoint.update(
        max_keep_ckpts=1, save_optimizer=False, save_best='mIoU')
    found = check(cfg, work_dir=tmp_path / 'a/b')[-1]
    assert found.level == 'ok' and '3 checkpoints of 5 GB' in found.text
    assert f'{tmp_path}/a/b' in found.text
    monkeypatch.setitem(ESTIMATE, 'gradients', 10**9)
    cfg.model.semflow.network.lora = dict(rank=2)
    assert '3 checkpoints of 2 GB' in check(cfg)[-1].text
    monkeypatch.setitem(ESTIMATE, 'ema', 5 * 10**9)
    assert '3 checkpoints of 4 GB' in check(cfg)[-1].text
    cfg.default_hooks.checkpoint.out_dir = str(tmp_path / 'out')
    assert f'{tmp_path}/out/work' in check(cfg)[-1].text
    cfg.default_hooks.checkpoint = None
    assert 'no checkpoint will be written' in the_fault(check(cfg), 'warning')


@pytest.mark.parametrize('found, text', [
    ('0.27.2', "diffusers is 0.27.2, but must be >=0.28: run pip install 'diff"),
    (None, "diffusers is not installed: run pip install 'diffusers>=0.28'")])
def test_versions(found, text, cfg, monkeypatch):

    def version(name, real=setup_check.version):
        if name != 'diffusers':
            return real(name)
        if found is None:
            raise PackageNotFoundError(name)
        return found

    monkeypatch.setattr(setup_check, 'version', version)
    monkeypatch.setattr(
        setup_check, 'requires',
        lambda _: ['torch>=2.6', 'diffusers>=0.28', 'nothing; extra == "dev"'])
    assert f'versions: {text}' in the_fault(check(cfg))


def test_an_extra_counts_where_the_config_needs_it(cfg, monkeypatch):
    monkeypatch.setattr(
        setup_check, 'requires',
        lambda _: ['torch', 'no-such-package>=1; extra == "deepspeed"'])
    assert {finding.level for finding in check(cfg)} == {'ok'}
    cfg.strategy = dict(type='DeepSpeedStrategy')
    assert 'no-such-package is not installed' in the_fault(check(cfg))


def test_metrics_that_will_be_left_out(cfg, monkeypatch, tmp_path):
    pytest.importorskip('lpips')
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    cfg.custom_hooks = [dict(type='SynthesisEvalHook', metrics=[
        dict(type='PerceptualDistance')])]
    text = the_fault(check(cfg), 'warning')
    assert 'metrics: PerceptualDistance is left out: there is no file' in text


def without_first_layer(state_dict):
    return {
        key: value for key, value in state_dict.items()
        if 'unet.conv_in.' not in key
    }


def check_load_from(cfg):
    return [(level, text) for level, text in SetupCheck(cfg)._check_load_from()]


def test_load_from_another_network(cfg, tmp_path, monkeypatch):
    """What training refuses is an error, what it is told to allow a warning."""
    monkeypatch.setattr(setup_check, 'PARTS', PARTS)
    state_dict = MODELS.build(cfg.model).state_dict()
    cfg.load_from = str(tmp_path / 'model.pth')
    torch.save(dict(state_dict=state_dict), cfg.load_from)
    assert check_load_from(cfg) == [
        ('ok', f'{cfg.load_from} fits the network'),
        ('ok', f'{cfg.load_from} fits the autoencoder')
    ]
    less = without_first_layer(state_dict)
    torch.save(dict(state_dict=less), cfg.load_from)
    text = the_fault(check(cfg))
    assert text.startswith(f'load_from: {cfg.load_from} does not fit the network: ')
    assert "2 keys differ, for example 'network.unet.conv_in.bias'" in text
    with pytest.raises(ValueError, match='another architecture: 2 keys differ'):
        MODELS.build(cfg.model).load_state_dict(less, strict=False)
    cfg.model.semflow.partial_load = ('network.unet.conv_in.', )
    (level, text), _ = check_load_from(cfg)
    assert level == 'warning' and 'in 2 keys, for example network.unet' in text
    MODELS.build(cfg.model).load_state_dict(less, strict=False)


def test_load_from_something_else(cfg, tmp_path, monkeypatch):
    monkeypatch.setattr(setup_check, 'PARTS', PARTS)
    cfg.load_from = str(tmp_path / 'model.pth')
    torch.save(dict(state_dict=dict(a=torch.zeros(1))), cfg.load_from)
    (level, text), _ = check_load_from(cfg)
    assert level == 'error' and 'does not fit the network' in text


def test_load_from_a_checkpoint_of_the_first_version(cfg, tmp_path, monkeypatch):
    monkeypatch.setattr(setup_check, 'PARTS', PARTS)
    cfg.load_from = str(tmp_path / 'old.pth')
    cfg.model.semflow = save_old_checkpoint(cfg.load_from)
    assert [level for level, _ in check_load_from(cfg)] == ['ok', 'ok']


def test_only_headers_of_weights_are_read(sd_cfg, tmp_path):
    """The published VAE still has the names of an older diffusers."""
    path = tmp_path / 'sd/vae/diffusion_pytorch_model.safetensors'
    # Copies: the file that they are mapped from is about to be written.
    weights = {key: value.clone() for key, value in load_file(path).items()}
    names = dict(to_q='query', to_k='key', to_v='value', **{'to_out.0': 'proj_attn'})
    for new, old in names.items():
        weights = {
            key.replace(f'attentions.0.{new}.', f'attentions.0.{old}.'): value
            for key, value in weights.items()
        }
    assert any('.query.' in key for key in weights)
    save_file(weights, path, metadata=dict(format='pt'))
    with headers_alone():
        autoencoder = MODELS.build(sd_cfg.model.semflow.autoencoder)
        autoencoder.init_weights()
    assert all(isinstance(p, FakeTensor) for p in autoencoder.parameters())
    autoencoder = MODELS.build(sd_cfg.model.semflow.autoencoder)
    autoencoder.init_weights()
    key = 'encoder.mid_block.attentions.0.'
    assert torch.equal(autoencoder.vae.state_dict()[f'{key}to_q.weight'],
                       weights[f'{key}query.weight'])


def test_what_cannot_be_checked(cfg):
    with pytest.raises(ValueError, match='num_pairs must be >= 1, but got 0'):
        SetupCheck(cfg, num_pairs=0)
    cfg.model = dict(type='EncoderDecoder')
    with pytest.raises(ValueError, match="no key 'model.semflow'"):
        SetupCheck(cfg)


def test_exit_code_of_the_tool(sd_cfg, tmp_path, monkeypatch, capsys):
    sd_cfg.custom_imports = dict(imports=['mmseg_semflow'])
    sd_cfg.dump(str(tmp_path / 'config.py'))
    monkeypatch.setattr(logging, 'disable', lambda _: None)
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))

    def run(*args):
        monkeypatch.setattr(
            sys, 'argv', ['check_setup.py', f'{tmp_path}/config.py', *args])
        try:
            runpy.run_path(
                str(ROOT / 'tools/check_setup.py'), run_name='__main__')
        except SystemExit as stop:
            return stop.code, capsys.readouterr().out.splitlines()
        return 0, capsys.readouterr().out.splitlines()

    code, lines = run('--num-pairs', '2')
    assert code == 0 and lines[-1] == '0 errors, 0 warnings'
    assert len(lines) == len(SUBJECTS + WEIGHTS) + 1
    code, lines = run('--cfg-options',
                      'model.semflow.network.sd_folder=nowhere')
    assert code == 1 and lines[-1] == '1 errors, 0 warnings'
    assert lines[1].startswith(
        'error     weights of the network: nowhere is not a folder')
    config = Config.fromfile(tmp_path / 'config.py')
    config.model = dict(type='EncoderDecoder')
    config.dump(str(tmp_path / 'config.py'))
    code, lines = run()
    assert "error: " in code and "'model.semflow'" in code


def test_a_folder_that_is_not_installed(cfg, monkeypatch):
    def requires(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(setup_check, 'requires', requires)
    said = [str(finding) for finding in check(cfg)
            if finding.subject == 'versions']
    assert 'mmseg_semflow is found as a folder but not installed' in said[0]
    assert said[0].startswith('warning') and said[1].startswith('ok')
