"""A labelled set, through the tool."""

import copy
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS

from mmseg_semflow.datasets.label_maps import LabelMaps
from mmseg_semflow.datasets.mask_choice import RareClassChoice
from mmseg_semflow.datasets.seeded import PASTE_CHOICE
from mmseg_semflow.generation.filters import CycleFilter
from mmseg_semflow.generation.generate import flip_of_training, smallest_scale
from mmseg_semflow.generation.labelled_set import LabelledSet, RealPairs
from mmseg_semflow.synthesis import Synthesizer
from mmseg_semflow.synthesis.pictures import read_note, write_picture
from tiny import META, network_cfg, save_checkpoint, street_dataset, write_sd_folder

ROOT = Path(__file__).parents[2]
SIZE = ('--size', 16, 24, '--num-steps', 2, '--min-agreement', 0)


def free_port():
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]


@pytest.fixture
def make(run_tool, tmp_path):
    """Make a set of four pictures by the tool; returns its folder."""

    def make(name, *args, count=4, **kwargs):
        out = tmp_path / name
        said = run_tool('generate_dataset.py', '--out', out, '--num-images', count,
                        *SIZE, *args, **kwargs)
        return said if kwargs.get('fails') else out

    return make


def files_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob('*') if path.is_file()
    }


def manifest_of(folder):
    return list(map(json.loads, (folder / 'manifest.jsonl').read_text().splitlines()))


def test_the_set_is_a_dataset_of_mmsegmentation(make):
    out = make('set')
    init_default_scope('mmseg')
    cfg = Config.fromfile(out / 'dataset.py')
    dataset = DATASETS.build(
        dict(
            cfg.generated_dataset,
            pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]))
    assert len(dataset) == 4
    records = manifest_of(out)
    for number in range(4):
        item = dataset[number]
        assert item['img'].shape == (16, 24, 3)
        assert item['gt_seg_map'].shape == (16, 24)
        record = records[number]
        assert record['number'] == number and record['kept']
        assert record['seed'] == 0 and record['style'] is None
        assert record['void'] == pytest.approx(
            (item['gt_seg_map'] == 255).mean(), abs=1e-4)
        assert dict(json.loads(read_note(item['img_path'])), kept=True) == record
    assert (out / 'contact_sheet.png').is_file()
    assert not (out / 'rejected.png').exists()
    assert '| class | masks, % | set, % |' in (out / 'statistics.md').read_text()


@pytest.mark.parametrize('count, lengths', [(2, (6, 6)), (4, (6, 8)), (13, (12, 13))])
def test_a_config_takes_the_mix_of_real_and_generated_pictures(
        make, files, tmp_path, count, lengths):
    out = make('set', count=count)
    (tmp_path / 'mixed.py').write_text('''
_base_ = ['config.py', 'set/dataset.py']
train_dataloader = dict(dataset=dict(_base_.mixed_dataset, _delete_=True))
''')
    init_default_scope('mmseg')
    loader = Config.fromfile(tmp_path / 'mixed.py').train_dataloader
    assert loader.batch_size == 2
    mixed = DATASETS.build(loader.dataset)
    assert tuple(map(len, mixed.datasets)) == lengths
    assert mixed.metainfo['classes'] == META['classes']
    items = [mixed[index] for index in range(len(mixed))]
    found = Counter(item['data_samples'].img_path for item in items)
    real = {str(path) for path in (tmp_path / 'street/img_dir/train').iterdir()}
    drawn = {str(path) for path in (out / 'img_dir/train').iterdir()}
    assert len(real) == 6 and found.keys() == real | drawn
    for item in items:
        sample = item['data_samples']
        assert item['inputs'].shape[1:] == sample.gt_sem_seg.shape


def test_the_mix_takes_the_transforms_of_the_segmentor(make, files, tmp_path):
    """And does not reduce the labels of a set, whatever the real ones are like."""
    cfg = Config.fromfile(files[0])
    cfg.train_dataloader.dataset.pipeline[1].reduce_zero_label = True
    cfg.dump(files[0])
    make('set')
    # As the file says it.
    head = (tmp_path / 'set/dataset.py').read_text().splitlines()
    last, *lines = [line[4:] for line in head if line.startswith('#   ')]
    (tmp_path / 'mixed.py').write_text('\n'.join([
        "_base_ = ['config.py', 'set/dataset.py']",
        f'_base_.train_pipeline = {cfg.train_dataloader.dataset.pipeline}',
        *lines, last
    ]))
    own = Config.fromfile(tmp_path / 'set/dataset.py').mixed_dataset
    assert [part.dataset.pipeline[1] for part in own.datasets] == [
        dict(type='LoadAnnotations', reduce_zero_label=True),
        dict(type='LoadAnnotations')
    ]
    taken = Config.fromfile(tmp_path / 'mixed.py').train_dataloader.dataset
    for part, reduces in zip(taken.datasets, (True, False), strict=True):
        expected = copy.deepcopy(cfg.train_dataloader.dataset.pipeline)
        expected[1].reduce_zero_label = reduces
        assert part.dataset.pipeline == expected
    assert not {'real', 'generated'} & Config.fromfile(tmp_path / 'mixed.py').keys()


def test_a_set_of_before_with_exchanged_labels_is_not_continued(make, files):
    """Its crops looked for the class that a flip had exchanged."""
    cfg = Config.fromfile(files[0])
    flip, = (transform for transform in cfg.train_dataloader.dataset.pipeline
             if transform.type == 'RandomFlip')
    flip.swap_seg_labels = [(3, 4)]
    cfg.dump(files[0])
    out = make('set', count=1)
    settings = json.loads((out / 'settings.json').read_text())
    assert settings.pop('crops') == 'after the flip'
    (out / 'settings.json').write_text(json.dumps(settings))
    (out / 'fitted.json').unlink()
    said = make('set', count=1, fails=True)
    assert 'a set of other settings: crops was None' in said


def test_notes_of_before_get_what_a_set_shares(make):
    out = make('set', count=2)
    expected = manifest_of(out)
    path = out / 'img_dir/train/000000.png'
    note = json.loads(read_note(path))
    assert note.pop('seed') == 0 and 'style' in note
    del note['style']
    write_picture(path, cv2.imread(str(path))[..., ::-1], json.dumps(note))
    (out / 'manifest.jsonl').unlink()
    make('set', count=2)
    assert manifest_of(out) == expected


def test_a_mix_counts_what_is_kept(make, run_tool):
    out = make('set', count=6)
    scores = sorted(record['agreement'] for record in manifest_of(out))
    run_tool('generate_dataset.py', '--out', out, '--num-images', 6, *SIZE[:5],
             '--min-agreement', (scores[3] + scores[4]) / 2)
    datasets = Config.fromfile(out / 'dataset.py').mixed_dataset.datasets
    assert [part.times for part in datasets] == [1, 3]


def test_the_mix_of_concatenated_real_pictures(make, files):
    """The transforms are those of the first."""
    cfg = Config.fromfile(files[0])
    real = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(
        type='ConcatDataset',
        datasets=[dict(type='RepeatDataset', times=2, dataset=real), real])
    cfg.dump(files[0])
    out = make('set')
    init_default_scope('mmseg')
    mixed = DATASETS.build(Config.fromfile(out / 'dataset.py').mixed_dataset)
    assert tuple(map(len, mixed.datasets)) == (18, 16)
    assert mixed[33]['inputs'].shape == (3, 16, 24)


def test_statistics_are_of_the_masks_and_of_the_set(make, files, tmp_path):
    out = make('set', '--classes', 'e', count=6)
    lines = (out / 'statistics.md').read_text().splitlines()[2:]
    found = [line.strip('| ').split(' | ') for line in lines]
    assert [name for name, *_ in found] == list(META['classes'])

    def shares(folder):
        labels = np.concatenate([
            cv2.imread(str(path), cv2.IMREAD_UNCHANGED).ravel()
            for path in folder.iterdir()
        ])
        counts = np.bincount(labels, minlength=256)[:5]
        return 100 * counts / counts.sum()

    shown = np.array([list(map(float, row)) for _, *row in found])
    masks = shares(tmp_path / 'street/ann_dir/train')
    drawn = shares(out / 'ann_dir/train')
    np.testing.assert_allclose(shown, np.stack([masks, drawn], 1), rtol=1e-3)
    assert drawn[4] > masks[4] + 1


def test_the_contact_sheet_has_pictures_above_their_masks(make):
    out = make('set', count=8)
    sheet = cv2.imread(str(out / 'contact_sheet.png'))
    # Six in a row.
    assert sheet.shape == (4 * 16, 6 * 24, 3)
    palette = np.zeros((256, 3), np.uint8)
    palette[:5] = np.array(META['palette'])[:, ::-1]
    for number in range(8):
        row, column = divmod(number, 6)
        top, left = 2 * 16 * row, 24 * column
        name = f'train/{number:06d}.png'
        labels = cv2.imread(str(out / 'ann_dir' / name), cv2.IMREAD_UNCHANGED)
        for first, expected in ((top, cv2.imread(str(out / 'img_dir' / name))),
                                (top + 16, palette[labels])):
            np.testing.assert_array_equal(
                sheet[first:first + 16, left:left + 24], expected)


@pytest.fixture
def drawn(monkeypatch):
    """List the numbers of the pictures that are drawn together."""
    found, synthesize = [], Synthesizer.synthesize

    def record(synthesizer, requests):
        found.append([number for _, number in requests])
        return synthesize(synthesizer, requests)

    monkeypatch.setattr(Synthesizer, 'synthesize', record)
    return found


def test_in_batches_an_interrupted_set_goes_on_and_more_pictures_join_it(make, drawn):
    """What is missing of a batch is drawn among the same pictures again."""
    batch = '--batch-size', 2
    whole = files_of(make('whole', *batch))
    assert drawn == [[0, 1], [2, 3]]
    out = make('parts', *batch, count=2)
    (out / 'img_dir/train/000001.png').unlink()
    first = out / 'img_dir/train/000000.png'
    before = first.stat().st_mtime_ns
    drawn.clear()
    make('parts', *batch)
    assert drawn == [[0, 1], [2, 3]]
    assert first.stat().st_mtime_ns == before
    parts = files_of(out)
    assert parts.keys() == whole.keys()
    assert all(parts[name] == whole[name] for name in whole if name != 'dataset.py')
    # Drawn alone a picture may differ by rounding, and not by more.
    out = make('odd', *batch, count=3)
    make('odd', *batch)
    for name in (f'img_dir/train/{number:06d}.png' for number in range(4)):
        one, other = (cv2.imread(str(tmp / name)).astype(int)
                      for tmp in (out, out.parent / 'whole'))
        assert abs(one - other).max() <= 1


def test_an_interrupted_set_goes_on_and_more_pictures_join_it(make):
    whole = files_of(make('whole'))
    out = make('parts', count=2)
    (out / 'img_dir/train/000001.png').unlink()
    first = (out / 'img_dir/train/000000.png').stat().st_mtime_ns
    make('parts')
    assert (out / 'img_dir/train/000000.png').stat().st_mtime_ns == first
    parts = files_of(out)
    assert parts.keys() == whole.keys()
    assert all(parts[name] == whole[name] for name in whole if name != 'dataset.py')


def test_processes_share_the_pictures(make, monkeypatch):
    whole = files_of(make('whole'))
    monkeypatch.setenv('WORLD_SIZE', '2')
    out = make('shared')
    assert sorted(path.name for path in (out / 'img_dir/train').iterdir()) == [
        '000000.png', '000002.png'
    ]
    assert not (out / 'manifest.jsonl').exists()
    monkeypatch.setenv('RANK', '1')
    make('shared')
    shared = files_of(out)
    assert all(shared[name] == whole[name] for name in whole if name != 'dataset.py')


def test_another_process_waits_for_what_the_first_learns(make, monkeypatch, tmp_path):
    """Its numbers are those that all use, were they computed elsewhere."""
    out = make('set', count=1)
    (out / 'img_dir/train/000000.png').unlink()
    fitted = (out / 'fitted.json').read_text()
    (out / 'fitted.json').unlink()
    monkeypatch.setenv('RANK', '1')
    monkeypatch.setenv('WORLD_SIZE', '2')
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            (out / 'fitted.json').write_text(fitted)

    monkeypatch.setattr('mmseg_semflow.generation.generate.time.sleep', sleep)
    make('set', count=2)
    assert len(waits) == 3
    assert (out / 'img_dir/train/000001.png').is_file()


def test_another_process_waits_for_the_threshold_too(
        make, run_tool, monkeypatch, tmp_path):
    """An earlier call set one, so that none was calibrated."""
    out = make('set', count=1)
    known = json.loads((out / 'fitted.json').read_text())
    assert known['threshold'] is None
    monkeypatch.setenv('RANK', '1')
    monkeypatch.setenv('WORLD_SIZE', '2')

    def sleep(seconds):
        (out / 'fitted.json').write_text(json.dumps(dict(known, threshold=0.)))

    monkeypatch.setattr('mmseg_semflow.generation.generate.time.sleep', sleep)
    said = run_tool('generate_dataset.py', '--out', out, '--num-images', 2, *SIZE[:5])
    assert '2 of 2 pictures were kept' in said


def test_seeds_differ_and_one_seed_does_not(make):
    one, same, other = make('one'), make('same'), make('other', '--seed', 1)
    assert files_of(one / 'img_dir') == files_of(same / 'img_dir')
    assert (one / 'img_dir/train/000000.png').read_bytes() != (
        other / 'img_dir/train/000000.png').read_bytes()
    assert manifest_of(one)[0]['set'] != manifest_of(other)[0]['set']
    assert [manifest_of(out)[3]['seed'] for out in (one, other)] == [0, 1]


def test_a_mask_that_is_drawn_twice_gives_two_pictures(make):
    """On a map of one class every view is the same."""
    out = make('set', '--flip', 0, '--scale', 1, 1, count=24)
    seen = {}
    for record in manifest_of(out):
        image = cv2.imread(str(out / f'img_dir/train/{record["number"]:06d}.png'))
        key = record['index'], *record['crop']
        seen.setdefault(key, []).append(image)
    twice = [images for images in seen.values() if len(images) > 1]
    assert twice
    for first, second, *_ in twice:
        assert (first != second).any()


def test_judge_and_hard_masks(make, files):
    out = make('hard', '--judge', *files, '--choose', 'hard')
    fitted = json.loads((out / 'fitted.json').read_text())
    assert len(fitted['class_losses']) == 5 and len(fitted['hardness']) == 6
    for record in manifest_of(out):
        labels = cv2.imread(
            str(out / f'ann_dir/train/{record["number"]:06d}.png'), -1)
        assert 0 <= record['filtered'] <= 1 and record['loss'] > 0
        assert record['class_losses'].keys() == record['class_agreement'].keys()
        assert record['void'] == pytest.approx((labels == 255).mean(), abs=1e-4)
        assert record['chosen_for'] is None
    assert any(record['filtered'] > 0 for record in manifest_of(out))


def test_every_mask_is_drawn_as_often_as_its_hardness_says(
        make, files, monkeypatch, tmp_path):
    """From the easiest of six masks 4, 8, 11, 14, 18 and 20 times."""
    args = '--judge', *files, '--choose', 'hard'
    assert 'the masks give 75 without' in make('none', *args, count=76, fails=True)
    found = Counter()

    def count(self, num_images, *args):
        found.update(self.views(number).record['index'] for number in range(num_images))

    monkeypatch.setattr(LabelledSet, 'generate', count)
    monkeypatch.setattr(LabelledSet, 'finish', lambda *args: None)
    out = make('hard', *args, count=75)
    fitted = json.loads((out / 'fitted.json').read_text())
    losses = np.array(fitted['class_losses'])
    masks = LabelMaps(street_dataset(tmp_path / 'street'), 5)
    hardness = [
        losses[masks[index][masks[index] < 5]].mean() for index in range(len(masks))
    ]
    np.testing.assert_allclose(fitted['hardness'], hardness)
    assert list(np.argsort(hardness)) != list(range(6))
    assert [found[index] for index in np.argsort(hardness)] == [4, 8, 11, 14, 18, 20]


def test_objects_are_pasted_from_masks_of_a_choice_of_their_own(make, tmp_path):
    out = make('set', '--paste', 2, '--temperature', 1e6, '--scale', 1, 1, count=12)
    masks = LabelMaps(street_dataset(tmp_path / 'street'), 5)
    choice = RareClassChoice(masks.counts, temperature=1e6, kind=PASTE_CHOICE)
    count = 0
    for record in manifest_of(out):
        draws = [choice(2 * record['number'] + place) for place in (0, 1)]
        chosen = [(masks.path(index).name, label) for index, label in draws]
        for pasted in record['pasted']:
            assert (pasted['source'], pasted['label']) in chosen
            count += 1
    assert count > 3


def test_pictures_below_the_agreement_are_kept_apart_and_counted(
        make, run_tool, tmp_path):
    out = make('set')
    scores = sorted(record['agreement'] for record in manifest_of(out))
    middle = (scores[1] + scores[2]) / 2
    before = files_of(out / 'img_dir')
    options = ('--out', out, '--num-images', 4, '--size', 16, 24, '--num-steps', 2)

    said = run_tool('generate_dataset.py', *options, '--min-agreement', middle)
    assert '2 of 4 pictures were kept' in said
    records = manifest_of(out)
    assert [record['kept'] for record in records] == [
        record['agreement'] >= middle for record in records
    ]
    for record in records:
        folders = out, out / 'rejected'
        folder, other = folders if record['kept'] else folders[::-1]
        for kind in ('img', 'ann'):
            name = f'{kind}_dir/train/{record["number"]:06d}.png'
            assert (folder / name).is_file() and not (other / name).exists()
    assert (out / 'rejected.png').is_file()

    # Nothing is drawn again for another threshold.
    run_tool('generate_dataset.py', *options, '--min-agreement', 0)
    assert files_of(out / 'img_dir') == before
    assert (out / 'dataset.py').exists() and not (out / 'rejected.png').exists()
    said = run_tool(
        'generate_dataset.py', *options, '--min-agreement', 1, fails=True)
    assert 'all 4 pictures were rejected' in said and '(--min-agreement)' in said
    assert (out / 'rejected.png').exists()
    for name in ('dataset.py', 'statistics.md', 'contact_sheet.png'):
        assert not (out / name).exists()
    run_tool('generate_dataset.py', *options, '--min-agreement', 0)
    assert files_of(out / 'img_dir') == before


def test_below_the_calibrated_agreement_pictures_are_rejected(
        run_tool, monkeypatch, tmp_path):
    """A model that reads colours, and paints every other picture wrongly."""
    colours = np.random.default_rng(0).integers(0, 256, (5, 3), dtype=np.uint8)[:, ::-1]

    def segment(self, image):
        return abs(image[:, :, None].astype(int) - colours).sum(-1).argmin(-1)

    def synthesize(self, requests):
        return [
            torch.from_numpy(colours[(labels.numpy() + number % 2) % 5].copy()).permute(
                2, 0, 1) for labels, number in requests
        ]

    monkeypatch.setattr(CycleFilter, 'segment', segment)
    monkeypatch.setattr(Synthesizer, 'synthesize', synthesize)
    out = tmp_path / 'set'

    def call():
        return run_tool(
            'generate_dataset.py', '--out', out, '--num-images', 4, *SIZE[:5])

    said = call()
    threshold = json.loads((out / 'fitted.json').read_text())['threshold']
    assert 0.4 < threshold < 0.9
    assert f'agreement is below {threshold:.3f} will be rejected' in said
    assert '2 of 4 pictures were kept' in said
    assert [record['kept'] for record in manifest_of(out)] == [True, False] * 2
    rejected = (out / 'rejected/img_dir/train').iterdir()
    assert sorted(path.name for path in rejected) == ['000001.png', '000003.png']
    # It is known then.
    said = call()
    assert 'calibrating' not in said and '2 of 4 pictures were kept' in said


def test_a_move_that_was_cut_off_is_caught_up(make):
    out = make('set')
    before = files_of(out)
    (out / 'rejected/ann_dir/train').mkdir(parents=True)
    (out / 'ann_dir/train/000002.png').rename(
        out / 'rejected/ann_dir/train/000002.png')
    make('set')
    assert files_of(out) == before


def test_a_damaged_picture_that_was_drawn_again_stays_away(make):
    """It had been rejected; now that it is kept, it replaces nothing."""
    out = make('set')
    before = files_of(out)
    bad = out / 'rejected/img_dir/train/000001.png'
    bad.parent.mkdir(parents=True)
    bad.write_bytes(b'no picture')
    (out / 'img_dir/train/000001.png').unlink()
    make('set')
    assert files_of(out) == before


def test_partial_files_of_killed_processes_are_removed(make):
    """Of whichever rank: another may have drawn the picture since."""
    out = make('set')
    before = files_of(out)
    for name in ('img_dir/train/000001.png.partial',
                 'ann_dir/train/000003.png.3.partial'):
        (out / name).write_bytes(b'half')
    # What another call may be drawing beyond them stays.
    other = out / 'img_dir/train/000004.png.1.partial'
    other.write_bytes(b'half')
    make('set')
    assert files_of(out) == before | {other.relative_to(out).as_posix(): b'half'}


def test_pictures_that_another_process_moves_are_counted(
        make, run_tool, monkeypatch):
    """Both go on with fewer pictures and take all back; one moves, the other reads."""
    out = make('set', count=6)
    whole = manifest_of(out)
    run_tool('generate_dataset.py', '--out', out, '--num-images', 6, *SIZE[:5],
             '--min-agreement', sorted(record['agreement'] for record in whole)[3])
    assert (out / 'rejected/img_dir/train').exists()
    record = LabelledSet.record

    def move_first(labelled, number):
        for kind in ('img', 'ann'):
            for path in (out / f'rejected/{kind}_dir/train').iterdir():
                path.rename(out / f'{kind}_dir/train' / path.name)
        return record(labelled, number)

    monkeypatch.setattr(LabelledSet, 'record', move_first)
    make('set', count=2)
    assert manifest_of(out) == whole


@pytest.mark.parametrize('name', ['thumb.png', '7.png', '000009.png'])
def test_what_is_no_picture_of_the_set_is_named(make, name):
    out = make('set')
    shutil.copy(out / 'contact_sheet.png', out / 'img_dir/train' / name)
    said = make('set', fails=True)
    assert f'{out / "img_dir/train" / name} is no picture of this set' in said


def test_damaged_masks_are_not_drawn(make, files, tmp_path):
    """Neither the first, which tells the size of all, nor one of `each`."""
    for number in (0, 3):
        (tmp_path / f'street/ann_dir/train/{number}.png').write_bytes(b'no mask')
    out = make('set', '--choose', 'each')
    assert sorted(record['index'] for record in manifest_of(out)) == [1, 2, 4, 5]
    assert 'the masks give 4 without repetition' in make(
        'more', '--choose', 'each', count=5, fails=True)
    hard = make('hard', '--choose', 'hard', '--judge', *files, count=8)
    assert len(json.loads((hard / 'fitted.json').read_text())['hardness']) == 4
    assert {record['index'] for record in manifest_of(hard)} <= {1, 2, 4, 5}


def test_fewer_pictures_leave_the_others_in_the_set(make):
    whole = files_of(make('set'))
    assert files_of(make('set', count=2)) == whole


def test_styles_and_fusion_are_settings_of_the_set(make, tmp_path):
    plain = make('plain')
    style = make('style', '--style', tmp_path / 'street/img_dir/val')
    fused = make('fused', '--fusion', 8, 16)
    for out in (style, fused):
        settings = json.loads((out / 'settings.json').read_text())
        assert settings['size'] == [16, 24]
        images, others = (cv2.imread(str(folder / 'img_dir/train/000000.png'))
                          for folder in (out, plain))
        assert images.shape == (16, 24, 3) and (images != others).any()
        assert (out / 'ann_dir/train/000000.png').read_bytes() == (
            plain / 'ann_dir/train/000000.png').read_bytes()
    drawn_with = json.loads((style / 'settings.json').read_text())['synthesis']['style']
    assert drawn_with['type'] == 'LatentStatistics' and len(drawn_with['source']) == 16
    assert all(record['style'] == drawn_with for record in manifest_of(style))
    assert all(record['style'] is None for record in manifest_of(fused))
    said = make('style', '--style', tmp_path / 'street/img_dir/val',
                '--style-strength', 0.5, fails=True)
    assert 'synthesis.style.strength was 1.0 and is 0.5 now' in said


@pytest.fixture
def reading(files, tmp_path):
    """Give the model of ``files`` a TextPrompt, and the adapter of a base."""
    folder = write_sd_folder(tmp_path / 'sd', unet=network_cfg()['unet'])
    parts = dict(
        network=network_cfg(prompt_length=77, sd_folder=str(folder)),
        wrappers=[
            dict(
                type='TextPrompt', classes=('a', 'b', 'c', 'd', 'e'),
                sd_folder=str(folder), token_channels=16)
        ])

    def write(**network):
        parts['network'].update(network)
        cfg = Config.fromfile(files[0])
        cfg.model.semflow.update(parts)
        cfg.dump(files[0])
        return parts

    save_checkpoint(files[1], **write())
    return write


def test_texts_take_turns_and_stand_in_the_manifest(reading, make):
    out = make('words', '--style-text', '', 'fog')
    assert [record['style_text'] for record in manifest_of(out)] == ['', 'fog'] * 2
    assert manifest_of(out)[0]['style'] == dict(type='TextStyle', texts=['', 'fog'])
    plain = make('plain')
    assert 'style_text' not in manifest_of(plain)[0]
    same = [cv2.imread(str(out / name)).tobytes() == cv2.imread(
        str(plain / name)).tobytes() for name in (
            f'img_dir/train/{number:06d}.png' for number in range(4))]
    assert same == [True, False, True, False]
    said = make('words', '--style-text', 'fog', fails=True)
    assert "synthesis.style.texts was ['', 'fog'] and is ['fog'] now" in said


def test_words_and_pictures_of_a_style(reading, run_tool, make, tmp_path):
    pictures = tmp_path / 'street/img_dir/val'
    out = make('both', '--style-text', 'fog', '--style', pictures)
    settings = json.loads((out / 'settings.json').read_text())
    assert [style['type'] for style in settings['synthesis']['style']['styles']] == [
        'TextStyle', 'LatentStatistics']
    masks = tmp_path / 'street/ann_dir/val'
    run_tool('synthesize.py', '--masks', masks, '--out', tmp_path / 'images',
             '--num-steps', 1, '--style-text', 'fog')
    note = json.loads(read_note(tmp_path / 'images/0_0.png'))
    assert note['style'] == dict(type='TextStyle', texts=['fog'])


def test_texts_are_for_models_that_read(make):
    assert 'the wrappers of this config have no TextPrompt' in make(
        'set', '--style-text', 'fog', fails=True)


def test_a_set_of_another_base_is_another_set(reading, files, make, tmp_path):
    """The checkpoint of an adapter says nothing of the base it is moved onto."""
    pytest.importorskip('peft')
    save_checkpoint(files[1], **reading(lora=dict(rank=2)))
    make('set', count=1)
    other = write_sd_folder(tmp_path / 'other', unet=network_cfg()['unet'])
    reading(sd_folder=str(other))
    assert 'set lora.swap=True' in make('set', count=1, fails=True)
    reading(lora=dict(rank=2, swap=True))
    assert 'base was ' in make('set', count=1, fails=True)
    make('swapped', count=1)


def test_an_unreadable_style_picture_is_named_before_and_after_the_work(
        run_tool, monkeypatch, tmp_path):
    path = tmp_path / 'street/img_dir/val/9.jpg'
    path.write_bytes(b'no picture')
    generate, finish = LabelledSet.generate, LabelledSet.finish

    def telling(method, word):

        def tell(*args):
            result = method(*args)
            print(word)
            return result

        return tell

    monkeypatch.setattr(LabelledSet, 'generate', telling(generate, 'drawn'))
    monkeypatch.setattr(LabelledSet, 'finish', telling(finish, 'finished'))
    told = [f'left out of the style: {path}', 'drawn', 'finished', '1 of 1 pictures']

    def call():
        said = run_tool(
            'generate_dataset.py', '--out', tmp_path / 'set', '--num-images', 1, *SIZE,
            '--style', path.parent)
        return re.findall('|'.join(map(re.escape, told)), said)

    assert call() == [*told[:3], told[0], told[3]]
    # One of the processes says it.
    monkeypatch.setenv('RANK', '1')
    monkeypatch.setenv('WORLD_SIZE', '2')
    assert call() == told[1:]


def test_an_untrained_model_cannot_judge_itself(run_tool, make, tmp_path):
    said = run_tool(
        'generate_dataset.py', '--out', tmp_path / 'set', '--num-images', 1,
        '--size', 16, 24, fails=True)
    assert 'cannot judge its pictures' in said and '--min-agreement' in said
    # What it advises works.
    make('set')


@pytest.fixture
def another(files, street, tmp_path):
    """Change what a set depends on, by its name."""

    def change(what):
        if what == 'weights':
            save_checkpoint(files[1], seed=2)
        elif what == 'masks':
            for folder in ('img_dir', 'ann_dir'):
                next((street / folder / 'train').glob('5.*')).unlink()

    return change


@pytest.mark.parametrize('what, args, match', [
    ('temperature', ('--temperature', 0.5), 'temperature was 0.01 and is 0.5 now'),
    ('weights', (), "weights was '"),
    ('masks', (), 'masks.num_images was 6 and is 5 now'),
    ('judge', ('--judge', 'config.py', 'model.pth'), "judge was None and is ['"),
])
@pytest.mark.parametrize('rank', ['0', '1'])
def test_a_set_of_other_settings_is_refused(
        make, another, monkeypatch, tmp_path, what, args, match, rank):
    """By every process: none waits for another that was refused."""
    out = make('set')
    before = files_of(out)
    another(what)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('RANK', rank)
    monkeypatch.setenv('WORLD_SIZE', '2')
    said = make('set', *args, fails=True)
    assert match in said and '(--out)' in said
    assert files_of(out) == before


def test_the_path_of_a_judge_may_be_written_otherwise(make, files, monkeypatch):
    out = make('set', '--judge', *files)
    monkeypatch.chdir(out.parent)
    before = files_of(out)
    make('set', '--judge', './config.py', 'model.pth')
    assert files_of(out) == before


def test_a_judge_of_other_classes_is_refused_before_anything_is_written(
        make, files, tmp_path):
    cfg = Config.fromfile(files[0])
    cfg.dump(str(tmp_path / 'judge.py'))
    meta = torch.load(files[1], weights_only=False)
    meta['meta']['dataset_meta']['classes'] = ('v', 'w', 'x', 'y', 'z')
    torch.save(meta, tmp_path / 'judge.pth')
    said = make('set', '--judge', tmp_path / 'judge.py', tmp_path / 'judge.pth',
                fails=True)
    assert 'judge.py must have the classes of the generator' in said
    assert not (tmp_path / 'set').exists()


def test_a_folder_of_something_else_is_left_alone(make, tmp_path, monkeypatch):
    (tmp_path / 'set').mkdir()
    (tmp_path / 'set/letter.txt').write_text('dear')
    assert 'holds files, but no set' in make('set', fails=True)
    # And nobody waits.
    monkeypatch.setenv('RANK', '1')
    monkeypatch.setenv('WORLD_SIZE', '2')
    assert 'holds files, but no set' in make('set', fails=True)
    assert [path.name for path in (tmp_path / 'set').iterdir()] == ['letter.txt']


def test_killed_at_its_first_file_it_goes_on(make, tmp_path):
    """What it left of it is no file of others; one of another name is."""
    whole = files_of(make('whole'))
    (tmp_path / 'set').mkdir()
    (tmp_path / 'set/settings.json.partial').write_text('{"wei')
    found = files_of(make('set'))
    assert found.keys() == whole.keys()
    assert all(found[name] == whole[name] for name in whole if name != 'dataset.py')
    (tmp_path / 'other').mkdir()
    for name in ('settings.json.partial', 'letter.txt.partial'):
        (tmp_path / 'other' / name).write_text('dear')
    assert 'holds files, but no set' in make('other', fails=True)


@pytest.mark.parametrize('args, match', [
    (('--choose', 'each', '--num-images', 7), 'the masks give 6 without repetition'),
    (('--choose', 'hard'), '--choose hard needs --judge'),
    (('--num-images', 0), 'num_images must be >= 1, but got 0'),
    (('--temperature', 0), 'temperature must be > 0, but got 0'),
    (('--classes', 'boat'), "classes must be of a, b, c, d, e, but got 'boat'"),
    (('--min-agreement', 2), 'min_agreement must be in [0, 1], but got 2'),
    (('--scale', 0.5, 1), 'factors from 1 on'),
    (('--size', 0, 0), 'size must be (height, width), both >= 1, but got [0, 0]'),
    (('--size', 0, 24, '--fusion', 8, 16), 'both >= 1, but got [0, 24]'),
    (('--style-strength', 0.3), '--style-strength needs --style'),
])
def test_wrong_options(make, args, match):
    assert match in make('set', *args, fails=True)


def test_a_mask_of_another_label_set_is_named(make, files, tmp_path):
    path = tmp_path / 'street/ann_dir/train/3.png'
    labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    labels[0, 0] = 17
    cv2.imwrite(str(path), labels)
    said = make('set', fails=True)
    assert '3.png has the labels [17]' in said


def test_a_class_that_no_mask_holds_is_named(make, tmp_path):
    folder = tmp_path / 'street/ann_dir/train'
    for path in folder.iterdir():
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        labels[labels == 4] = 0
        cv2.imwrite(str(path), labels)
    said = make('set', '--classes', 'b', 'e', fails=True)
    assert (f"none of 6 masks of BaseSegDataset in {folder} holds the class 'e' "
            '(label 4): choose others (classes, or --classes)') in said
    assert not (tmp_path / 'set').exists()


def test_a_full_disk_leaves_nothing_half_written(make, monkeypatch, tmp_path):
    out = make('set', count=1)
    import mmseg_semflow.files as files

    def full(*args):
        raise OSError(28, 'No space left on device')

    with monkeypatch.context() as context:
        context.setattr(files.os, 'fsync', full)
        said = make('set', fails=True)
    assert 'cannot be written (No space left on device)' in said
    assert not list(out.rglob('*.partial'))
    make('set')
    shutil.rmtree(out)


@pytest.mark.parametrize('scale, sides, size, expected', [
    # Resized it just covers the crop.
    ((342, 256), (360, 480), (256, 320), 1.),
    # mmsegmentation's Cityscapes: twice as large as the crop.
    ((2048, 1024), (1024, 2048), (512, 1024), 1.6),
])
def test_scale_is_the_smallest_of_the_training(scale, sides, size, expected):
    resize = dict(type='RandomResize', scale=scale, ratio_range=(0.8, 1.6))
    assert smallest_scale(dict(pipeline=[resize]), sides, size) == expected


def test_scale_of_a_resize_that_is_always_the_same():
    """GTA5 of 1052 x 1914 at 704 x 1280, in crops of 512."""
    resize = dict(type='Resize', scale=(1280, 720), keep_ratio=True)
    found = smallest_scale(dict(pipeline=[resize]), (1052, 1914), (512, 512))
    assert found == 1.37
    resize['scale'] = 720
    found = smallest_scale(dict(pipeline=[resize]), (200, 360), (200, 360))
    assert found == 2.


@pytest.mark.parametrize('args, scale', [
    ((), 1.25),
    # Pass 1 shows objects as large as the training does.
    (('--fusion', 8, 12), 2.5),
    (('--scale', 1, 1), 1.),
])
def test_a_set_has_scale_and_flip_of_its_training(make, files, args, scale):
    cfg = Config.fromfile(files[0])
    pipeline = cfg.train_dataloader.dataset.pipeline
    flip, = (transform for transform in pipeline if transform.type == 'RandomFlip')
    flip.prob = 1.
    pipeline.insert(2, dict(
        type='RandomResize', scale=(40, 30), ratio_range=(0.75, 1.2), keep_ratio=True))
    cfg.dump(files[0])
    out = make('set', *args)
    settings = json.loads((out / 'settings.json').read_text())
    assert (settings['flip'], settings['scale']) == (1., [scale, scale])
    for record in manifest_of(out):
        assert record['flipped'] and record['scale'] == scale


def test_scale_and_flip_of_trainings_without():
    pipeline = [dict(type='Resize', scale=(9, 9)), dict(type='PackSegInputs')]
    assert smallest_scale(dict(pipeline=pipeline), (9, 9), (9, 9)) == 1.
    assert flip_of_training(dict(pipeline=pipeline)) == (0., [])


def test_flip_is_that_of_the_training():
    celebamask = Config.fromfile(ROOT / 'configs/_base_/datasets/celebamask_hq.py')
    assert flip_of_training(celebamask.train_dataloader.dataset) == (
        0.5, [(4, 5), (6, 7), (8, 9)])


def test_real_pictures_are_brought_to_the_size_of_the_set(shared_street):
    maps = LabelMaps(street_dataset(shared_street), 5)
    pairs = RealPairs(maps, (24, 24), [2, 4])
    assert len(pairs) == 2
    for (image, labels), index in zip(pairs, (2, 4), strict=True):
        assert image.shape == (24, 24, 3)
        np.testing.assert_array_equal(labels, maps[index][:, 4:28])


@pytest.mark.process
def test_killed_at_any_moment_the_finished_set_is_the_same(files, tmp_path, make):
    whole = files_of(make('whole', count=60))
    out = tmp_path / 'killed'
    options = ['--out', out, '--num-images', 60, *SIZE]
    process = subprocess.Popen(
        list(map(str, [
            sys.executable, ROOT / 'tools/generate_dataset.py', *files, *options
        ])),
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and len(
                list(out.glob('img_dir/train/*.png'))) < 5:
            time.sleep(0.01)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    assert not (out / 'manifest.jsonl').exists()
    subprocess.run(
        list(map(str, [ROOT / 'tools/dist_generate.sh', *files, 2, *options])),
        cwd=tmp_path, check=True, capture_output=True,
        env=dict(os.environ, PYTHON=sys.executable, PORT=str(free_port())))
    found = files_of(out)
    assert found.keys() == whole.keys()
    assert all(found[name] == whole[name] for name in whole if name != 'dataset.py')
