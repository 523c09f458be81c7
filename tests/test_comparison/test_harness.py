"""One table for several methods."""

import csv
import sys
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import Runner
from numpy.testing import assert_equal
from torch import nn

from mmseg_semflow.apis import load_model
from mmseg_semflow.apis.scoring import Evaluation
from mmseg_semflow.apis.tables import to_markdown
from mmseg_semflow.comparison.harness import (
    SEGMENTATION,
    SYNTHESIS,
    Comparison,
    budget_note,
    to_plot,
    write_comparison,
)
from mmseg_semflow.synthesis import Synthesizer, image_and_labels
from tiny import CODEC, META, process_cfg, runner_cfg, semflow_cfg, write_street

RECIPES = Path(__file__).parents[2] / 'configs/comparison'
FCN = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', size=(24, 32)),
    backbone=dict(
        type='UNet',
        base_channels=4,
        num_stages=2,
        strides=(1, 1),
        enc_num_convs=(1, 1),
        dec_num_convs=(1, ),
        downsamples=(True, ),
        enc_dilations=(1, 1),
        dec_dilations=(1, )),
    decode_head=dict(
        type='FCNHead', in_channels=4, in_index=1, channels=4, num_convs=1,
        num_classes=5),
    test_cfg=dict(mode='whole'))


GENERATORS = dict(
    bbdm=dict(
        type='SemFlowGenerator', semflow=semflow_cfg(**process_cfg('bbdm'))),
    pix2pix=dict(
        type='MaskPix2Pix',
        data_preprocessor=dict(
            type='MaskTranslationDataPreProcessor', codec=CODEC),
        size_divisor=64,
        generator=dict(
            type='UnetGenerator', in_channels=3, out_channels=3, num_down=6,
            base_channels=4, norm_cfg=dict(type='IN'), use_dropout=True),
        discriminator=dict(
            type='PatchDiscriminator', in_channels=6, base_channels=4,
            norm_cfg=dict(type='IN'))))


def method_cfg(root, name):
    cfg = runner_cfg(root / 'street', root / 'work')
    cfg.custom_imports = dict(imports=['mmseg_semflow'])
    cfg.test_pipeline = cfg.test_dataloader.dataset.pipeline
    if name == 'semflow':
        cfg.comparison = dict(num_steps=[1, 2])
    if name == 'dsm':
        cfg.model.semflow = semflow_cfg(**process_cfg('dsm'))
        cfg.comparison = dict(
            solvers=['DDIMScheduler', 'DDPMScheduler'], num_steps=[1, 3])
    if name == 'fcn':
        cfg.model = FCN
    if name in GENERATORS:
        cfg.custom_imports.imports.append('mmseg_semflow.comparison.gans')
        cfg.model = GENERATORS[name]
        cfg.default_scope = 'mmagic'
        for split in ('train', 'val', 'test'):
            cfg[f'{split}_dataloader'].dataset._scope_ = 'mmseg'
    return cfg


def write_method(root, folder, name, **options):
    """Write the config and an untrained checkpoint of a method."""
    folder.mkdir()
    cfg = method_cfg(root, name)
    cfg.merge_from_dict(options)
    config, checkpoint = folder / f'{name}.py', folder / f'{name}.pth'
    cfg.dump(str(config))
    Config.fromfile(config)  # imports what it names
    init_default_scope(cfg.default_scope)
    torch.manual_seed(1)
    model = Runner.build_model(Runner, cfg.model)
    if hasattr(model, 'semflow'):
        nn.init.normal_(model.semflow.network.unet.conv_out.weight, std=0.3)
    torch.save(
        dict(
            state_dict=model.state_dict(),
            meta=dict(
                dataset_meta=META,
                iter=7,
                settings={
                    'images in an iteration': '2',
                    'number of images': '6'
                })), checkpoint)
    init_default_scope('mmseg')
    return str(config), str(checkpoint)


@pytest.fixture(scope='module')
def method(tmp_path_factory):
    """Give the files of a method, which are written when first asked for."""
    root = tmp_path_factory.mktemp('methods')
    write_street(root / 'street')
    written = {}

    def files(name, **options):
        key = f'{name}{options}'
        if key not in written:
            written[key] = write_method(
                root, root / str(len(written)), name, **options)
        return written[key]

    return files


@pytest.fixture
def compare(call_tool, monkeypatch, tmp_path):
    """Call the tool; give what it says."""
    # Galleries take most of the time.
    monkeypatch.setattr(Evaluation, 'NUM_PICTURES', 1)
    return partial(call_tool, 'compare.py', '--device', 'cpu', '--out',
                   tmp_path / 'out')


def read(path):
    with open(path) as file:
        return list(csv.DictReader(file))


def test_pictures_are_those_of_the_model(method, monkeypatch):
    monkeypatch.setattr(Evaluation, 'NUM_PICTURES', 2)
    config, checkpoint = method('semflow')
    comparison = Comparison(
        [config], [2], num_images=4, metrics=[dict(type='SampleDiversity')])
    assert len(list(comparison.rows([checkpoint]))) == 2

    model = load_model(config, checkpoint, device='cpu')
    dataset = DATASETS.build(model.cfg.test_dataloader.dataset)
    model.test_cfg.num_steps = 2
    painted = np.array([*META['palette'], *[[0] * 3] * 251], np.uint8)
    expected = {name: dict(image=[], mask=[]) for name in comparison.pictures}
    for grid in expected.values():
        grid['semflow euler 2'] = []
    for i in (0, 2):
        item = dataset[i]
        image, labels = image_and_labels(item)
        result, = model.test_step(
            dict(inputs=[item['inputs']], data_samples=[item['data_samples']]))
        drawn, = Synthesizer(model.semflow, 2)(labels)
        made = dict(
            segmentation=painted[result.pred_sem_seg.data[0]],
            synthesis=drawn.permute(1, 2, 0).numpy())
        for name, grid in expected.items():
            grid['image'].append(image.permute(1, 2, 0).numpy())
            grid['mask'].append(painted[labels])
            grid['semflow euler 2'].append(made[name])
    assert_equal(comparison.pictures, expected)


def test_rows_of_every_kind(compare, method, tmp_path):
    semflow = method('semflow')
    dsm = method('dsm')
    fcn = method('fcn')
    said = compare(*semflow, *dsm, *fcn, '--seeds', 0, 1, 2, '--judge', *fcn)
    rows = read(tmp_path / 'out/segmentation.csv')
    assert [(row['method'], row['solver'], row['num_steps']) for row in rows] == [
        ('semflow', 'euler', '1'), ('semflow', 'euler', '2'),
        ('dsm', 'DDIMScheduler', '1'), ('dsm', 'DDIMScheduler', '3'),
        ('dsm', 'DDPMScheduler', '1'), ('dsm', 'DDPMScheduler', '3'),
        ('fcn', '', '')
    ]
    for row in rows:
        assert float(row['segmentation_nfe']) == int(row['num_steps'] or 1)
        random = row['method'] == 'dsm'
        assert (float(row['pixels_differ']) > 0) == random
        assert (float(row['mIoU_max']) > float(row['mIoU_min'])) == random
        assert (row['iterations'], row['batch'], row['train_images']) == (
            '7', '2', '6')
    assert ('Equal budgets: semflow, dsm, fcn: '
            '7 iterations of 2 images, from 6.') in said
    assert 'All test images, one at a time; segmentation with seeds 0, 1, 2' in said
    drawn = read(tmp_path / 'out/synthesis.csv')
    assert [row['method'] for row in drawn] == ['semflow', 'semflow']
    for row in drawn:
        assert float(row['diversity']) > 0 and float(row['mask_mIoU']) >= 0
    assert (tmp_path / 'out/comparison.md').read_text() in said
    for name in ('comparison', 'segmentation', 'synthesis'):
        assert cv2.imread(str(tmp_path / f'out/{name}.png')) is not None

    cfg = Config.fromfile(dsm[0])
    cfg.work_dir, cfg.load_from = str(tmp_path / 'runner'), dsm[1]
    cfg.model.test_cfg = dict(num_steps=3, solver='DDPMScheduler')
    runner = Runner.from_cfg(cfg)
    found = []
    for seed in (0, 1, 2):
        runner.model.test_cfg.seed = seed
        found.append(runner.test()['mIoU'])
    assert float(rows[5]['mIoU']) == pytest.approx(sum(found) / 3, abs=0.01)
    for key, value in dict(mIoU_min=min(found), mIoU_max=max(found)).items():
        assert float(rows[5][key]) == pytest.approx(value, abs=0.01)


@pytest.mark.skipif(find_spec('mmagic') is None, reason='needs mmagic')
def test_rows_of_generators(compare, method, tmp_path):
    pairs = [file for name in GENERATORS for file in method(name)]
    said = compare(*pairs, '--steps', 2, '--num-samples', 4)
    rows = read(tmp_path / 'out/synthesis.csv')
    assert [(row['method'], row['num_steps'], row['synthesis_nfe'], row['size'])
            for row in rows] == [('bbdm', '2', '2.0', '32x24'),
                                 ('pix2pix', '', '1.0', '32x24')]
    for row in rows:
        assert float(row['diversity']) > 0 and row['iterations'] == '7'
    assert 'SampleDiversity of 4 samples per mask' in said
    assert not (tmp_path / 'out/segmentation.csv').exists()

    said = compare(*pairs, '--metrics', fails=True)
    assert 'there is nothing to evaluate' in said


def test_a_missing_checkpoint_is_named_and_the_rest_goes_on(
        compare, method, tmp_path):
    fcn = method('fcn')
    semflow = method('semflow')
    gone = str(tmp_path / 'gone.pth')
    said = compare(semflow[0], gone, *fcn, fails=True)
    assert said.endswith(f'error: there is no checkpoint {gone}')
    rows = read(tmp_path / 'out/segmentation.csv')
    assert rows[0]['note'] == f'there is no checkpoint {gone}'
    assert rows[1]['method'] == 'fcn' and float(rows[1]['mIoU']) >= 0


@pytest.mark.parametrize('options, message', [
    ({'test_dataloader.dataset.data_prefix.img_path': 'img_dir/train'},
     'same test data'),
    ({'test_dataloader.dataset.metainfo.classes': tuple('abcdx')},
     'same classes'),
])
def test_other_data_or_classes(compare, method, tmp_path, options, message):
    fcn = method('fcn')
    semflow = method('semflow', **options)
    said = compare(*fcn, *semflow, fails=True)
    assert message in said and 'fcn.py' in said and 'semflow.py' in said
    assert not (tmp_path / 'out').exists()


def test_a_config_without_its_checkpoint(compare, method):
    fcn = method('fcn')
    assert 'odd number of files' in compare(fcn[0], fails=True)


def test_another_budget_is_told():
    row = dict(method='a', iterations=4, batch=2, train_images=6)
    assert budget_note([row, row]) == (
        'Equal budgets: a: 4 iterations of 2 images, from 6.')
    assert budget_note([row, dict(row, method='b', iterations=8)]) == (
        'The budgets differ: a: 4 iterations of 2 images, from 6; '
        'b: 8 iterations of 2 images, from 6.')
    assert budget_note([dict(method='a', note='no checkpoint')]) == ''


def test_what_checkpoints_do_not_tell_is_a_question_mark():
    row = dict(
        method='a', iterations=9, batch='unknown', train_images='unknown')
    assert budget_note([row]) == (
        'The budgets, as far as checkpoints tell them: '
        'a: 9 iterations of ? images, from ?.')


def test_only_what_changed_is_written_again(tmp_path):
    tables = {
        SEGMENTATION: [dict(method='a', mIoU=1., segmentation_nfe=1.)],
        SYNTHESIS: [dict(method='b', diversity=1.)]
    }
    pictures = {
        name: dict(image=[np.zeros((2, 3, 3), np.uint8)]) for name in tables
    }
    text = write_comparison(tables, pictures, 'protocol.', tmp_path)
    of_table = {
        SEGMENTATION: {'segmentation.csv', 'segmentation.png', 'comparison.png'},
        SYNTHESIS: {'synthesis.csv', 'synthesis.png'}
    }
    assert {path.name for path in tmp_path.iterdir()} == {
        'comparison.md', *of_table[SEGMENTATION], *of_table[SYNTHESIS]}
    for changed, written in of_table.items():
        for path in tmp_path.iterdir():
            path.write_bytes(b'')
        assert write_comparison(tables, pictures, 'protocol.', tmp_path,
                                changed) == text
        assert {path.name for path in tmp_path.iterdir()
                if path.read_bytes()} == {'comparison.md', *written}


@pytest.fixture
def without(monkeypatch):
    """Let a library be missing for the modules of which it is an extra."""

    def hide(library):
        for name in list(sys.modules):
            if name.startswith(('mmseg_semflow.comparison.gans',
                                'mmseg_semflow.comparison.maskformer',
                                'mmseg_semflow.models.generators')):
                monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, library, None)

    return hide


def test_gans_name_the_extra_of_the_comparison(without):
    without('mmagic')
    with pytest.raises(
            ImportError,
            match=r"A GAN .* needs mmagic, .*mmseg_semflow\[comparison\]' and"):
        import_module('mmseg_semflow.comparison.gans')


@pytest.mark.parametrize('recipe, library, extra', [
    ('spade_camvid', 'mmagic', 'mmagic'),
    ('maskformer_camvid', 'mmdet', 'comparison'),
])
def test_a_library_that_is_missing_is_named(without, recipe, library, extra):
    without(library)
    with pytest.raises(
            ValueError,
            match=rf"{recipe}.py cannot be read: .* needs {library}, .*"
            rf"pip install 'mmseg_semflow\[{extra}\]'"):
        Comparison([str(RECIPES / f'{recipe}.py')])


def test_a_plot_of_nothing_is_a_picture():
    assert to_plot([dict(method='a', note='no checkpoint')]).startswith(
        b'\x89PNG')


def test_what_does_not_fit_is_named_and_the_rest_goes_on(method):
    semflow = method('semflow')
    dsm = method('dsm')
    fcn = method('fcn')
    comparison = Comparison([fcn[0], dsm[0], semflow[0], fcn[0]], [1001])
    rows = [
        row for _, row in comparison.rows(
            [semflow[1], dsm[1], fcn[1], fcn[1]])
    ]
    assert f'{semflow[1]} does not fit {fcn[0]}' in rows[0]['note']
    assert 'at most num_train_timesteps=1000, but got 1001' in rows[1]['note']
    assert 'not a checkpoint of SemFlowModel' in rows[2]['note']
    assert rows[3]['mIoU'] >= 0


def test_an_adaptive_solver_has_one_row(method):
    config, checkpoint = method(
        'semflow', comparison=dict(solvers=['dopri5']))
    comparison = Comparison([config], num_images=1)
    rows = [row for _, row in comparison.rows([checkpoint])]
    assert [row['num_steps'] for row in rows] == ['-']


def test_a_model_that_cannot_be_built_is_named_and_the_rest_goes_on(
        method, tmp_path):
    fcn = method('fcn')
    wrong = tmp_path / 'wrong.py'
    cfg = Config.fromfile(fcn[0])
    cfg.model.decode_head.width = 3
    cfg.dump(str(wrong))
    _, rows = zip(*Comparison([str(wrong), fcn[0]]).rows([fcn[1], fcn[1]]),
                  strict=True)
    assert f'{wrong} cannot be built: ' in rows[0]['note']
    assert "'width'" in rows[0]['note'] and rows[1]['mIoU'] >= 0


def test_two_checkpoints_of_a_config(method, tmp_path):
    config, checkpoint = method('fcn')
    other = tmp_path / 'other.pth'
    saved = torch.load(checkpoint, weights_only=False)
    saved['meta'].update(iter=9, settings={}, cfg='raise ValueError')
    torch.save(saved, other)
    comparison = Comparison([config, config])
    rows = [row for _, row in comparison.rows([checkpoint, str(other)])]
    assert [(row['method'], row['iterations'], row['batch'], row['train_images'])
            for row in rows] == [
                (f'fcn ({checkpoint})', 7, '2', '6'),
                (f'fcn ({other})', 9, 'unknown', 'unknown')]
    assert len(comparison.pictures['segmentation']) == 4
    for some in (rows, rows[1:]):
        assert budget_note(some).startswith('The budgets, as far as checkpoints')


def test_a_note_of_several_lines_is_one_cell():
    assert to_markdown([dict(note='a\n\tb | c')]).splitlines()[2] == (
        r'| a b \| c |')


def test_an_unknown_metric_is_told_before_the_first_row(compare, method, tmp_path):
    said = compare(*method('fcn'), '--metrics', 'Beauty', fails=True)
    assert 'Beauty' in said and not (tmp_path / 'out').exists()


@pytest.mark.parametrize('name', ['RoundTrip', 'NoiseGain'])
def test_a_metric_of_another_tool(compare, method, name):
    said = compare(*method('semflow'), '--metrics', name, fails=True)
    assert f'{name} is for models of both' in said
    assert 'use tools/sweep_steps.py' in said
