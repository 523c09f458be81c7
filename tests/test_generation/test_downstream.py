"""What a generated set is worth: three arms, their table, and the tool."""

import copy
import csv
import json
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import cv2
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from shipped import ROOT, load
from tool_calls import TOOLS

from mmseg_semflow.datasets.toy_street import CLASSES, PALETTE, write_toy_street
from mmseg_semflow.engine import ResumableTrainLoop
from mmseg_semflow.generation import downstream as module
from mmseg_semflow.generation.downstream import (
    ARMS,
    Downstream,
    paired_difference,
    summarize,
    to_plot,
    write_downstream,
)
from mmseg_semflow.generation.mixing import repeats_of_parts
from mmseg_semflow.safe_loading import load_from_local

NUM_REAL, NUM_GENERATED, MAX_ITERS = 12, 5, 3
SCENES = dict(num_val=2, size=(32, 48))


def write_generated(root, classes=CLASSES, **scenes):
    """Write a set as the generation leaves it: other streets, and dataset.py."""
    write_toy_street(root, num_train=NUM_GENERATED, seed=7, **(SCENES | scenes))
    write_dataset(root, classes)
    return root


def write_dataset(root, classes=CLASSES):
    (root / 'dataset.py').write_text(f'''
generated_dataset = dict(
    type='BaseSegDataset', data_root='where/it/was', img_suffix='.png',
    data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train'),
    seg_map_suffix='.png', reduce_zero_label=False,
    metainfo=dict(classes={tuple(classes)!r}, palette={PALETTE[::-1]!r}))
''')


def shrink(cfg, root):
    """Make network, pictures and iterations of the shipped config few and tiny."""
    cfg.model.backbone.update(embed_dims=4, num_layers=[1] * 4)
    cfg.model.decode_head.update(in_channels=[4, 8, 20, 32], channels=8)
    cfg.model.data_preprocessor.size = SCENES['size']
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
        loader.dataset.update(
            data_root=str(root / 'street'), serialize_data=False,
            generate=dict(num_train=NUM_REAL, seed=0, **SCENES))
    cfg.train_cfg.update(max_iters=MAX_ITERS, val_interval=MAX_ITERS)
    cfg.default_hooks.checkpoint.interval = 1
    cfg.log_level = 'WARNING'
    return cfg


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """Where the real street is, and a generated set that nobody changes."""
    root = tmp_path_factory.mktemp('downstream')
    write_generated(root / 'generated')
    return root


@pytest.fixture
def cfg(root):
    return shrink(load('comparison/segformer_b0_toy'), root)


@pytest.fixture
def build(cfg, root, tmp_path):
    def build(generated=None, work='work', **options):
        return Downstream(
            cfg, generated or root / 'generated', tmp_path / work, **options)

    return build


class Step(NamedTuple):
    """An iteration: arm and seed, files, and first weights before it."""

    run: str
    number: int
    paths: list
    weights: torch.Tensor


@pytest.fixture
def trained(monkeypatch):
    """List the iterations that are trained."""
    found, run_iter = [], ResumableTrainLoop.run_iter

    def record(loop, batch):
        found.append(
            Step('/'.join(Path(loop.runner.work_dir).parts[-2:]), loop.iter,
                 [sample.img_path for sample in batch['data_samples']],
                 next(loop.runner.model.parameters()).detach().clone()))
        return run_iter(loop, batch)

    monkeypatch.setattr(ResumableTrainLoop, 'run_iter', record)
    return found


def is_real(path):
    return 'street' in Path(path).parts


def loader_of(downstream, arm):
    """Build the data loader as the training does."""
    return Runner.from_cfg(downstream.config(arm, 0)).train_dataloader


@pytest.mark.parametrize('arm, times', [
    ('real', (1, 0)), ('generated', (0, 1)), ('both', (1, 2)),
    ('copy_paste', (1, 0)), ('both_copy_paste', (1, 2))])
def test_an_epoch_reads_every_file_of_the_parts(arm, times, build):
    """12 real and 5 generated pictures: the latter twice, about 1 : 1."""
    loader = loader_of(build(), arm)
    draws = iter(loader.sampler)
    counts = Counter(
        loader.dataset[next(draws)]['data_samples'].img_path
        for _ in range(len(loader.dataset)))
    for kind, number, repeats in zip(
            ('street', 'generated'), (NUM_REAL, NUM_GENERATED), times, strict=True):
        found = [n for path, n in counts.items() if kind in Path(path).parts]
        assert found == [repeats] * (number if repeats else 0)


def test_the_parts_are_balanced_by_whole_repetitions(build):
    assert repeats_of_parts(37, 500) == (14, 1)
    assert repeats_of_parts(500, 37) == (1, 14)
    assert repeats_of_parts(5, 6) == (1, 1)
    # Of what is seen then 23 %, 9 % and 71 % are generated.
    assert repeats_of_parts(367, 110, 0.25) == (1, 1)
    assert repeats_of_parts(367, 110, 0.1) == (3, 1)
    assert repeats_of_parts(367, 110, 0.7) == (1, 8)
    few = build(share=0.1)
    assert (few.num_real, few.num_generated, few.repeats) == (1, 5, (5, 1))


def test_training_reads_both_parts(build, cfg, trained):
    """What the network is given in 11 iterations of 2 pictures: once everything."""
    cfg.train_cfg.max_iters = cfg.default_hooks.checkpoint.interval = 11
    list(build(arms=['both'], seeds=[0]).runs())
    counts = Counter(path for step in trained for path in step.paths)
    assert len(counts) == NUM_REAL + NUM_GENERATED
    for path, count in counts.items():
        assert count == 2 - is_real(path)


def test_runs_of_a_seed_differ_in_their_pictures_alone(build, trained):
    list(build(seeds=[0]).runs())
    weights, shares = {}, {}
    for step in trained:
        weights.setdefault(step.run, step.weights)
        shares.setdefault(step.run, []).extend(map(is_real, step.paths))
    assert all(torch.equal(first, weights['real/seed_0'])
               for first in weights.values())
    assert all(shares['real/seed_0']) and not any(shares['generated/seed_0'])
    assert set(shares['both/seed_0']) == {True, False}
    assert [step.number for step in trained] == [*range(MAX_ITERS)] * 3


def test_share_is_evenly_spaced_and_the_same_everywhere(build):
    downstream = build(share=0.25)
    assert downstream.num_real == 3
    for seed in (0, 1):
        indices = [0, 4, 8]
        real = downstream.config('real', seed).train_dataloader.dataset
        both = downstream.config('both', seed).train_dataloader.dataset
        assert real.indices == both.datasets[0].dataset.indices == indices
        assert 'indices' not in both.datasets[1].dataset
    assert len(DATASETS.build(both)) == 2 * 3 + 5
    # All of them: the arm real is the config as it is.
    assert build().dataset('real') == downstream.cfg.train_dataloader.dataset


def test_distortion_of_all_arms(build, cfg):
    plain, distorted = build(), build(distort=True)
    kinds = ['LoadImageFromFile', 'LoadAnnotations', 'RandomFlip', 'PackSegInputs']

    def pipelines(downstream, arm):
        dataset = downstream.dataset(arm)
        for part in dataset.get('datasets', [dict(dataset=dataset)]):
            yield [transform.type for transform in part['dataset'].pipeline]

    for arm in ARMS:
        assert all(found == kinds for found in pipelines(plain, arm))
        assert all(found == [*kinds[:3], 'PhotoMetricDistortion', kinds[3]]
                   for found in pipelines(distorted, arm))
        DATASETS.build(distorted.dataset(arm))[0]
    pasted = distorted.dataset('copy_paste')
    mixed = distorted.dataset('both_copy_paste')
    assert mixed.datasets[0].dataset == pasted
    assert mixed.datasets[1] == distorted.dataset('both').datasets[1]
    assert [t.type for t in pasted.dataset.pipeline] == kinds[:2]
    assert [t.type for t in pasted.pipeline] == [
        'PasteRareObjects', kinds[2], 'PhotoMetricDistortion', kinds[3]
    ]
    assert [t.type for t in cfg.train_dataloader.dataset.pipeline] == kinds


def test_figures_are_those_of_mmsegmentation(build, cfg, tmp_path):
    """The arm real is a training of the config, and mIoU the mean of the classes."""
    row, = build(arms=['real'], seeds=[3], rare=['pole', 'car']).runs()
    alone = copy.deepcopy(cfg)
    alone.randomness.seed = 3
    alone.work_dir = alone.experiment_name = str(tmp_path / 'alone')
    alone.visualizer.name = alone.work_dir
    runner = Runner.from_cfg(alone)
    runner.train()
    assert row['mIoU'] == pytest.approx(runner.test()['mIoU'], abs=0.00501)
    classes = [row[f'IoU.{name}'] for name in CLASSES if f'IoU.{name}' in row]
    assert row['mIoU'] == pytest.approx(sum(classes) / len(classes))
    assert row['rare'] == pytest.approx((row['IoU.pole'] + row['IoU.car']) / 2)
    weights, others = (
        load_from_local(str(Path(folder, f'iter_{MAX_ITERS}.pth')))['state_dict']
        for folder in (alone.work_dir, build().folder('real', 3)))
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[key], others[key]) for key in weights)


def test_corrupted_test_sets(build, cfg, monkeypatch):
    """Figures of the weights that were trained, on the test set changed."""
    options = dict(arms=['real'], seeds=[0], corruptions=['darkness'], severity=5)
    row, = build(**options).runs()
    assert row['corrupted'] == row['mIoU.darkness'] != row['mIoU']
    alone = copy.deepcopy(cfg)
    alone.test_dataloader.dataset.pipeline.insert(
        1, dict(type='Corrupt', corruption='darkness', severity=5))
    alone.load_from = str(build().folder('real', 0) / f'iter_{MAX_ITERS}.pth')
    alone.work_dir = alone.experiment_name = str(build().work_dir / 'alone')
    alone.visualizer.name = alone.work_dir
    assert row['mIoU.darkness'] == pytest.approx(
        Runner.from_cfg(alone).test()['mIoU'], abs=0.00501)
    assert 'corrupted: the mean of darkness, of severity 5' in build(
        **options).protocol
    with pytest.raises(ValueError, match='corruptions was darkness and is none now'):
        list(build(arms=['real'], seeds=[0]).runs())


@pytest.mark.parametrize('options, reason', [
    (dict(corruptions=['rain']), "corruption must be of .* but got 'rain'"),
    (dict(corruptions=['darkness'], severity=0), 'severity must be of 1 to 5')])
def test_unknown_corruptions(options, reason, build):
    with pytest.raises(ValueError, match=reason):
        build(**options)


def test_iou_in_closed_form():
    """Two pictures with one class that is nowhere."""
    metric = module.ClassIoUMetric()
    metric.dataset_meta = dict(classes=('a', 'b', 'c'))
    for predicted, label in (([0, 0, 1, 1], [0, 1, 1, 255]), ([0, 1], [0, 0])):
        metric.process(None, [{
            key: dict(data=torch.tensor([value])) for key, value in dict(
                pred_sem_seg=predicted, gt_sem_seg=label).items()}])
    found = metric.evaluate(2)
    assert found['IoU.a'] == pytest.approx(100 * 2 / 4)
    assert found['IoU.b'] == pytest.approx(100 * 1 / 3)
    assert math.isnan(found['IoU.c'])
    assert found['mIoU'] == pytest.approx(100 * 5 / 12)


def test_a_finished_run_is_not_repeated(build, trained, capsys):
    rows = list(build(arms=['real', 'both'], seeds=[0]).runs())
    assert [(row['arm'], row['seed']) for row in rows] == [('real', 0), ('both', 0)]
    assert len(trained) == 2 * MAX_ITERS
    trained.clear()
    assert list(build(arms=['real', 'both'], seeds=[0]).runs()) == rows
    assert not trained
    said = capsys.readouterr().out
    assert 'run 1 of 2: real, seed 0\n' in said
    assert 'run 2 of 2: both, seed 0, is done\n' in said
    # Another seed is another run; the finished one stays.
    assert next(iter(build(arms=['real'], seeds=[0, 5]).runs())) == rows[0]
    list(build(arms=['real'], seeds=[0, 5]).runs())
    assert {step.run for step in trained} == {'real/seed_5'}


def test_an_interrupted_run_goes_on(build, monkeypatch, trained, capsys):
    """It ends as one that was not interrupted."""
    one = dict(arms=['both'], seeds=[1])
    whole, = build(work='whole', **one).runs()
    trained.clear()
    run_iter = ResumableTrainLoop.run_iter

    def interrupt(loop, batch):
        if loop.iter == 2:
            raise KeyboardInterrupt
        return run_iter(loop, batch)

    with monkeypatch.context() as patch:
        patch.setattr(ResumableTrainLoop, 'run_iter', interrupt)
        with pytest.raises(KeyboardInterrupt):
            list(build(**one).runs())
    folder = build().folder('both', 1)
    assert not (folder / 'result.json').exists()
    assert list(build(**one).runs()) == [whole]
    assert 'run 1 of 1: both, seed 1, goes on\n' in capsys.readouterr().out
    assert [step.number for step in trained] == [0, 1, 2]
    weights, others = (
        load_from_local(str(path / f'iter_{MAX_ITERS}.pth'))['state_dict']
        for path in (folder, build(work='whole').folder('both', 1)))
    assert all(torch.equal(weights[key], others[key]) for key in others)
    # Stopped between the training and the test.
    (folder / 'result.json').unlink()
    assert list(build(**one).runs()) == [whole]
    assert len(trained) == MAX_ITERS


def test_weights_to_start_from(build, cfg, tmp_path, trained):
    """A config's load_from starts a run, and does not end up in one that goes on."""
    list(build(arms=['generated'], seeds=[0]).runs())
    start = tmp_path / 'start.pth'
    (tmp_path / 'work/generated/seed_0/iter_3.pth').rename(start)
    weights = load_from_local(str(start))['state_dict']
    cfg.load_from = str(start)
    trained.clear()
    list(build(arms=['real'], seeds=[0]).runs())
    assert torch.equal(trained[0].weights, next(iter(weights.values())))
    (build().folder('real', 0) / 'result.json').unlink()
    list(build(arms=['real'], seeds=[0]).runs())
    assert len(trained) == MAX_ITERS


CHANGED = {
    'share': (dict(share=0.5), {}, 'real', r'share was 1.0 and is 0.5 now'),
    'distort': (dict(distort=True), {}, 'generated',
                r'distort was False and is True now'),
    'config': ({}, {'optim_wrapper.optimizer.lr': 7.}, 'both',
               r'optim_wrapper.optimizer.lr was 0.001 and is 7.0 now'),
    'iterations': ({}, {'train_cfg.max_iters': 4}, 'real',
                   r'train_cfg.max_iters was 3 and is 4 now'),
}


@pytest.mark.parametrize('case', CHANGED)
@pytest.mark.parametrize('finished', [True, False])
def test_a_run_of_other_settings_is_refused(case, finished, build, cfg, trained):
    options, changes, arm, reason = CHANGED[case]
    begin(build(arms=[arm], seeds=[0]), arm, finished)
    if not finished:
        (build().folder(arm, 0) / 'iter_2.pth').touch()
    cfg.merge_from_dict(changes)
    # Before anything is trained.
    changed = build(seeds=[1, 0], **options)
    with pytest.raises(ValueError, match=rf'work/{arm}/seed_0 holds a run of other '
                       rf'settings: {reason}.* the same. .*--work-dir'):
        list(changed.runs())
    assert not trained


def begin(downstream, arm, finished=True):
    """Write what a run leaves, without training."""
    folder = downstream.folder(arm, 0)
    folder.mkdir(parents=True)
    (folder / 'settings.json').write_text(json.dumps(downstream.settings(arm, 0)))
    if finished:
        (folder / 'result.json').write_text(json.dumps({'mIoU': 12., 'IoU.sky': 1.}))


def test_a_run_without_a_checkpoint_begins_anew(build, cfg, trained):
    """As one that failed before its first iteration."""
    begin(build(arms=['real'], seeds=[0]), 'real', finished=False)
    changed = build(arms=['real'], seeds=[0], distort=True)
    list(changed.runs())
    assert len(trained) == MAX_ITERS
    settings = json.loads((changed.folder('real', 0) / 'settings.json').read_text())
    assert settings['distort'] == 'True'


def test_another_generated_set_is_refused(build, tmp_path):
    """One pixel is enough; the arm real does not depend on it, nor on the place."""
    other = write_generated(tmp_path / 'other')
    for arm in ARMS:
        begin(build(other), arm)
    moved = other.rename(tmp_path / 'moved')
    assert len(list(build(moved, seeds=[0]).runs())) == 3
    path = sorted((moved / 'ann_dir/train').iterdir())[3]
    labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    labels[0, 0] = 255
    cv2.imwrite(str(path), labels)
    assert len(list(build(moved, arms=['real'], seeds=[0]).runs())) == 1
    for arm in ('generated', 'both'):
        with pytest.raises(ValueError, match=f'{arm}/seed_0 holds.*: generated '
                           'pictures was [0-9a-f]{16} and is [0-9a-f]{16} now'):
            list(build(moved, arms=[arm], seeds=[0]).runs())


def test_what_changes_no_figure_may_change(build, cfg, tmp_path):
    for arm in ARMS:
        begin(build(), arm)
    cfg.train_dataloader.update(num_workers=3)
    cfg.train_cfg.val_interval = 1
    cfg.log_level = 'INFO'
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.data_root = str(tmp_path / 'copy')
    assert len(list(build(seeds=[0]).runs())) == 3
    # Generated pictures alone: the real ones are not asked.
    assert len(list(build(seeds=[0], arms=['generated'], share=0.5).runs())) == 1


@pytest.mark.parametrize('options, reason', [
    (dict(arms=['real', 'fake']),
     'arms must be different ones of real, generated, both, copy_paste, '
     'both_copy_paste, but got real fake'),
    (dict(arms=['both', 'both']), 'arms must be different .* but got both both'),
    (dict(arms=[]), 'but got none'),
    (dict(seeds=[0, 1, 0]),
     'seeds must be different numbers of 0 or more, but got 0 1 0'),
    (dict(seeds=[-1]), 'but got -1'),
    (dict(share=0.), r'share must be in \(0, 1\], but got 0.0'),
    (dict(share=1.5), 'but got 1.5'),
    (dict(share=math.nan), 'but got nan'),
    (dict(generated_share=1.), r'generated_share must be in \(0, 1\), but got 1.0'),
    (dict(rare=['pole', 'Fence']),
     'rare must be different classes of the training set, of sky, .*pole, but got '
     'pole Fence'),
    (dict(rare=['pole', 'pole']), 'but got pole pole'),
])
def test_arguments_out_of_range(options, reason, build):
    with pytest.raises(ValueError, match=reason):
        build(**options)


def wrap(cfg):
    dataset = cfg.train_dataloader.pop('dataset')
    cfg.train_dataloader.dataset = dict(
        type='RepeatDataset', times=2, dataset=dataset)


@pytest.mark.parametrize('change, options, reason', [
    (wrap, {}, "must be a plain dataset of mmsegmentation with a pipeline, but its "
     "type is 'RepeatDataset' and its keys are type, times, dataset"),
    (lambda cfg: cfg.train_dataloader.dataset.pop('pipeline'), {},
     "its type is 'ToyStreetDataset' and its keys are type, data_root"),
    (lambda cfg: cfg.pop('train_dataloader'), {}, 'its type is None'),
    (lambda cfg: cfg.pop('test_dataloader'), {}, 'has no test_dataloader'),
    (lambda cfg: cfg.train_cfg.pop('max_iters'), {},
     'must have train_cfg.max_iters, since all arms train for equal iterations'),
    (lambda cfg: cfg.update(runner_type='FlexibleRunner'), {},
     "runner_type='Runner', but got 'FlexibleRunner'"),
    (lambda cfg: cfg.train_dataloader.dataset.update(indices=4), dict(share=0.5),
     'a share needs all real pictures, but train_dataloader.dataset.indices'),
    (lambda cfg: cfg.train_dataloader.dataset.pipeline.pop(), dict(distort=True),
     'with one PackSegInputs .* but got LoadImageFromFile, LoadAnnotations, Ra'),
])
def test_a_config_that_does_not_fit(change, options, reason, build, cfg):
    change(cfg)
    with pytest.raises(ValueError, match=reason):
        build(**options)


def test_what_is_no_generated_set(build, tmp_path):
    with pytest.raises(FileNotFoundError, match='no .*none/dataset.py: .*none must '
                       'be a generated set'):
        build(tmp_path / 'none')
    (tmp_path / 'dataset.py').write_text('dataset = dict()')
    with pytest.raises(ValueError, match='dataset.py must define generated_dataset'):
        build(tmp_path)
    write_dataset(tmp_path)
    (tmp_path / 'img_dir/train').mkdir(parents=True)
    (tmp_path / 'ann_dir/train').mkdir(parents=True)
    with pytest.raises(ValueError, match='BaseSegDataset finds no pair .*'
                       rf"data_root='{tmp_path}'"):
        build(tmp_path)


def test_a_set_of_other_classes(build, tmp_path):
    other = write_generated(tmp_path / 'other', classes=CLASSES[::-1])
    with pytest.raises(ValueError, match=r"other/dataset.py must have the classes of "
                       r"the training set of .*segformer_b0_toy.py, \('sky', .*, but "
                       r"got \('pole', "):
        build(other)


def test_paired_difference_in_closed_form():
    """Differences 1, 2, 3, 6: mean 3, sum of squares 4 + 1 + 0 + 9 = 14."""
    real = {0: 10., 1: 20., 2: 30., 3: 40.}
    values = {3: 46., 0: 11., 1: 22., 2: 33., 9: 1000.}
    found = paired_difference(values, real)
    assert found['difference'] == pytest.approx(3)
    assert found['difference_se'] == pytest.approx(math.sqrt(14 / (4 * 3)))
    assert (found['difference_min'], found['difference_max']) == (1, 6)
    # Seeds that shift both alike cancel.
    shifted = [{seed: value + 5 * seed for seed, value in of.items()}
               for of in (values, real)]
    assert paired_difference(*shifted) == pytest.approx(found)
    assert paired_difference({0: 12.}, real) == dict(
        difference=2., difference_min=2., difference_max=2.)
    assert paired_difference({9: 12.}, real) == {}


RUNS = [
    {'arm': 'real', 'seed': 0, 'mIoU': 50., 'IoU.sky': 90.},
    {'arm': 'both', 'seed': 0, 'mIoU': 53., 'IoU.sky': 90., 'IoU.car': 5.},
    {'arm': 'real', 'seed': 1, 'mIoU': 54., 'IoU.sky': 94.},
    {'arm': 'both', 'seed': 1, 'mIoU': 55., 'IoU.sky': 94., 'IoU.car': 7.},
    {'arm': 'generated', 'seed': 1, 'mIoU': 40., 'IoU.sky': 80.},
]


def test_the_table(tmp_path):
    rows = {(row['figure'], row['arm']): row for row in summarize(RUNS)}
    assert rows['mIoU', 'real'] == dict(
        figure='mIoU', arm='real', seeds=2, mean=52., min=50., max=54.)
    assert rows['mIoU', 'both'] == dict(
        figure='mIoU', arm='both', seeds=2, mean=54., min=53., max=55.,
        difference=2., difference_se=pytest.approx(1), difference_min=1.,
        difference_max=3.)
    assert rows['mIoU', 'generated']['difference'] == -14
    assert rows['IoU.sky', 'both']['difference_se'] == 0
    # A class that real has no IoU of.
    assert rows['IoU.car', 'both'] == dict(
        figure='IoU.car', arm='both', seeds=2, mean=6., min=5., max=7.)
    text = write_downstream(RUNS, 'protocol.', tmp_path)
    assert text == (tmp_path / 'downstream.md').read_text()
    assert '| mIoU | both | 2 | 54 | 53 | 55 | 2 | 1 | 1 | 3 |' in text
    assert text.endswith('\n\nprotocol.\n')
    for name, count in (('downstream.csv', len(rows)), ('runs.csv', len(RUNS))):
        with open(tmp_path / name, newline='') as file:
            assert len(list(csv.DictReader(file))) == count
    assert (tmp_path / 'downstream.png').read_bytes().startswith(b'\x89PNG')
    # Without the arm to compare with.
    assert 'difference' not in str(summarize(RUNS[-1:]))
    assert to_plot(RUNS[:1]).startswith(b'\x89PNG')


def test_the_protocol(build):
    text = build(share=0.25, distort=True, rare=['pole', 'person']).protocol
    assert 'segformer_b0_toy.py: 3 iterations of 2 pictures' in text
    assert '3 of 12 real pictures, 5 generated ones of ' in text
    assert 'the real ones 2 times and the generated ones 1 times' in text
    assert 'with PhotoMetricDistortion' in text and 'of pole, person.' in text


CONFIG = '''
_base_ = '{base}'
model = dict(
    data_preprocessor=dict(size=(32, 48)),
    backbone=dict(embed_dims=4, num_layers=[1, 1, 1, 1]),
    decode_head=dict(in_channels=[4, 8, 20, 32], channels=8))
few = dict(batch_size=2, num_workers=0, persistent_workers=False, dataset=dict(
    data_root='{root}/street',
    generate=dict(num_train=12, num_val=2, size=(32, 48), seed=0)))
train_dataloader = few
val_dataloader = few
test_dataloader = few
train_cfg = dict(max_iters=2, val_interval=2)
'''


@pytest.fixture
def config(root, tmp_path):
    path = tmp_path / 'small.py'
    path.write_text(CONFIG.format(
        base=ROOT / 'configs/comparison/segformer_b0_toy.py', root=root))
    return path


@pytest.mark.parametrize('args, reason', [
    (('--arms', 'real', 'fake'), 'error: arms must be different ones of real'),
    (('--share', '2'), 'error: share must be in (0, 1], but got 2.0'),
    (('--rare', 'Pole'), 'error: rare must be different classes'),
    (('--generated', 'none'), 'error: there is no none/dataset.py'),
    (('--cfg-options', 'train_cfg.max_iters'), '2'),  # argparse's status
    (('--device', 'tpu'), '2'),
])
def test_the_tool_tells_what_is_wrong(args, reason, config, root, call_tool,
                                      monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    said = call_tool('downstream.py', config, '--generated', root / 'generated',
                     *args, fails=True)
    assert reason in said and 'Traceback' not in said
    assert not Path('work_dirs').exists()


@pytest.mark.process
def test_the_tool_as_a_command(config, root, tmp_path):
    """It writes the table, and called again trains nothing."""
    command = [
        sys.executable, str(TOOLS / 'downstream.py'), str(config), '--generated',
        str(root / 'generated'), '--seeds', '0', '1', '--share', '0.5', '--distort',
        '--rare', 'pole', 'person', '--device', 'cpu', '--work-dir', 'work',
        '--cfg-options', 'log_level=WARNING'
    ]
    said = []
    for _ in range(2):
        done = subprocess.run(
            command, cwd=tmp_path, text=True, capture_output=True, timeout=300)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert 'run 6 of 6: both, seed 1\n' in said[0]
    assert said[1].count(', is done\n') == 6
    assert '6 of 12 real pictures' in said[0]
    with open(tmp_path / 'work/downstream.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert [(row['figure'], row['arm']) for row in rows[:6]] == [
        (figure, arm) for figure in ('mIoU', 'rare') for arm in ARMS]
    runs = [json.loads((tmp_path / f'work/{arm}/seed_{seed}/result.json').read_text())
            for seed in (0, 1) for arm in ARMS]
    both, real = ([run['mIoU'] for run in runs[number::3]] for number in (2, 0))
    assert float(rows[2]['difference']) == pytest.approx(
        (both[0] - real[0] + both[1] - real[1]) / 2)
    cfg = Config.fromfile(tmp_path / 'work/both/seed_1/small.py')
    assert cfg.train_dataloader.dataset.type == 'ConcatDataset'
