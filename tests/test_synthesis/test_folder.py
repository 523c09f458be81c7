"""Images for a folder of masks, from Python and by the tool."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmseg_semflow.apis import SemFlowInferencer
from mmseg_semflow.synthesis.folder import synthesize_folder
from mmseg_semflow.synthesis.pictures import read_note, write_picture
from tiny import META, save_checkpoint


@pytest.fixture(scope='module')
def inferencer(shared_files):
    return SemFlowInferencer(*shared_files, device='cpu')


@pytest.fixture
def masks(street):
    return sorted((street / 'ann_dir/train').iterdir())


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in Path(folder).rglob('*.png')
    }


@pytest.fixture
def run(inferencer):
    """Synthesise for a folder; ``stop`` interrupts at the mask of this number."""

    def call(masks, out, overwrite=False, stop=None, **kwargs):
        read = []

        def interrupted(path):
            if len(read) == stop:
                raise KeyboardInterrupt
            read.append(path)
            return inferencer.read(path)

        synthesizer = inferencer.synthesizer(**{'num_steps': 1, **kwargs})
        return synthesize_folder(synthesizer, interrupted, masks, out, overwrite)

    return call


@pytest.fixture
def calls(inferencer, monkeypatch):
    """Collect how many images the network was given of each height."""
    found = []
    transport = inferencer.semflow.transport

    def listen(pixels, *args, **kwargs):
        found.append((len(pixels), pixels.shape[2]))
        return transport(pixels, *args, **kwargs)

    monkeypatch.setattr(inferencer.semflow, 'transport', listen)
    return found


@pytest.mark.parametrize('batch_size', [1, 4])
def test_interrupted_run_continues(run, masks, tmp_path, batch_size):
    """With the same bytes, and without touching what is done."""
    how = dict(num_samples=2, batch_size=batch_size)
    folder, expected, out = masks[0].parent, tmp_path / 'expected', tmp_path / 'out'
    run(folder, expected, **how)
    with pytest.raises(KeyboardInterrupt):
        run(folder, out, stop=3, **how)
    half = contents(out)
    assert len(half) == (6 if batch_size == 1 else 4)
    # As if it had been killed amid a batch.
    (out / '1_1.png').unlink()
    half.pop('1_1.png')
    times = {name: os.stat(out / name).st_mtime_ns for name in half}
    run(folder, out, **how)
    assert contents(out) == contents(expected)
    assert times == {name: os.stat(out / name).st_mtime_ns for name in half}


def test_batches_reach_over_masks_of_one_size(run, masks, tmp_path, calls):
    """The default makes each image alone, with the bytes of the synthesizer."""
    cv2.imwrite(str(masks[1]), np.zeros((8, 32), np.uint8))
    folder = masks[0].parent
    run(folder, tmp_path / 'alone', num_samples=3)
    assert calls == 3 * [(1, 24)] + 3 * [(1, 8)] + 12 * [(1, 24)]
    calls.clear()
    run(folder, tmp_path / 'together', num_samples=3, batch_size=4)
    assert calls == [(4, 24)] * 3 + [(3, 8), (3, 24)]
    alone, together = (contents(tmp_path / n) for n in ('alone', 'together'))
    assert alone.keys() == together.keys() and len(alone) == 18
    for name in alone:
        one, other = (cv2.imread(str(tmp_path / n / name)).astype(int)
                      for n in ('alone', 'together'))
        assert np.abs(one - other).max() <= 1
    # One size for all, and all of them fit in one batch.
    calls.clear()
    run(folder, tmp_path / 'sized', size=(12, 16), batch_size=6)
    assert calls == [(6, 12)]


def test_a_batch_is_noted_where_there_is_one(run, masks, tmp_path):
    """Folders of a version without batches continue, others are refused."""
    run(masks[0], tmp_path / 'one')
    assert 'batch_size' not in read_note(tmp_path / 'one/0_0.png')
    with pytest.raises(ValueError, match='batch_size was None and is 2 now'):
        run(masks[0], tmp_path / 'one', batch_size=2)
    run(masks[0], tmp_path / 'two', batch_size=2)
    assert json.loads(read_note(tmp_path / 'two/0_0.png'))['batch_size'] == 2
    with pytest.raises(ValueError, match='batch_size was 2 and is None now'):
        run(masks[0], tmp_path / 'two')


def test_a_note_of_the_first_version_is_known(run, masks, tmp_path, calls):
    picture = np.zeros((24, 32, 3), np.uint8)
    run(masks[0], tmp_path / 'out')
    digest = json.loads(read_note(tmp_path / 'out/0_0.png'))['mask']
    write_picture(
        tmp_path / 'out/0_0.png', picture,
        '{"num_steps": 1, "solver": "euler", "seed": 0, "amplitude": 6, "size": '
        'null, "dtype": null, "tile_size": null, "tile_stride": null, '
        f'"mask": "{digest}"}}')
    calls.clear()
    run(masks[0], tmp_path / 'out')
    assert not calls and not cv2.imread(str(tmp_path / 'out/0_0.png')).any()


def test_existing_pictures_stay_unless_asked(run, masks, tmp_path):
    run(masks[0], tmp_path / 'out')
    picture = tmp_path / 'out/0_0.png'
    made = picture.read_bytes()
    picture.write_bytes(b'mine')
    with pytest.raises(ValueError, match='_0.png is there and was not made by'):
        run(masks[0], tmp_path / 'out')
    assert picture.read_bytes() == b'mine'
    run(masks[0], tmp_path / 'out', overwrite=True)
    assert picture.read_bytes() == made


def test_interrupted_overwriting_continues(run, masks, tmp_path):
    """No mix of two seeds is taken for done."""
    folder, out = masks[0].parent, tmp_path / 'out'
    run(folder, tmp_path / 'expected', seed=1)
    run(folder, out, seed=0)
    with pytest.raises(KeyboardInterrupt):
        run(folder, out, stop=2, seed=1, overwrite=True)
    with pytest.raises(ValueError, match='seed was 0 and is 1 now'):
        run(folder, out, seed=1)
    run(folder, out, seed=1, overwrite=True)
    assert contents(out) == contents(tmp_path / 'expected')


def test_two_masks_of_one_picture(run, tmp_path):
    for name in ('a.png', 'a.bmp'):
        cv2.imwrite(str(tmp_path / name), np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match='would both write .*a_0.png'):
        run(tmp_path, tmp_path / 'out')


@pytest.mark.parametrize('batch_size', [1, 4])
def test_unreadable_masks_are_reported_and_the_others_done(
        run, masks, tmp_path, batch_size):
    masks[1].write_bytes(b'broken')
    cv2.imwrite(str(masks[2]), np.full((4, 4), 77, np.uint8))
    failed = run(masks[0].parent, tmp_path / 'out', batch_size=batch_size)
    assert failed.keys() == {str(masks[1]), str(masks[2])}
    assert f'{masks[1]} cannot be read' in failed[str(masks[1])]
    assert f'{masks[2]} has the labels [77]' in failed[str(masks[2])]
    assert len(contents(tmp_path / 'out')) == len(masks) - 2


def test_output_inside_the_folder_of_masks(run, masks):
    out = masks[0].parent / 'out'
    run(masks[0].parent, out)
    before = contents(out)
    run(masks[0].parent, out)
    assert contents(out) == before
    assert len(before) == len(masks)


@pytest.fixture
def synthesize(run_tool):
    return lambda *args, **kwargs: run_tool('synthesize.py', *args, **kwargs)


def test_tool_makes_what_the_inferencer_makes(inferencer, synthesize, masks,
                                              tmp_path):
    out = tmp_path / 'out'
    synthesize('--masks', masks[0].parent, '--out', out, '--num-samples',
               2, '--seed', 5, '--num-steps', 2, '--solver', 'heun')
    assert len(list(out.glob('*.png'))) == 2 * len(masks)
    for mask in masks[:2]:
        expected = inferencer.synthesize(
            mask, num_samples=2, seed=5, num_steps=2, solver='heun')
        for number in range(2):
            np.testing.assert_array_equal(
                cv2.imread(str(out / f'{mask.stem}_{number}.png')),
                expected[number])
    note = json.loads(read_note(out / f'{masks[0].stem}_1.png'))
    assert note['seed'] == 5 and note['solver'] == 'heun'
    before = contents(out)
    refused = synthesize('--masks', masks[0], '--out', out, '--num-steps', 2,
                         '--solver', 'heun', fails=True)
    assert 'seed was 5 and is 0 now' in refused
    assert contents(out) == before


def test_other_weights_and_a_changed_mask_are_noticed(
        files, synthesize, masks, tmp_path):
    """By their content."""
    args = ('--masks', masks[0], '--out', tmp_path / 'out', '--num-steps', 1)
    synthesize(*args)
    copy = Path(files[1]).read_bytes()
    save_checkpoint(files[1], seed=2)
    assert 'weights was' in synthesize(*args, fails=True)
    Path(files[1]).write_bytes(copy)
    synthesize(*args)
    cv2.imwrite(str(masks[0]), np.zeros((24, 32), np.uint8))
    assert 'mask was' in synthesize(*args, fails=True)


def test_tiles_keep_the_size_of_the_masks(files, synthesize, masks, tmp_path):
    with open(files[0], 'a') as config:
        config.write('\nsynthesis = dict(size=(6, 8))\n')
    shapes = {}
    for name, options in dict(
            config=(), tiles=('--tile-size', 8, 16), keep=('--keep-size', ),
            size=('--size', 10, 12)).items():
        synthesize('--masks', masks[0], '--out', tmp_path / name, '--num-steps',
                   1, *options)
        picture = tmp_path / name / f'{masks[0].stem}_0.png'
        shapes[name] = cv2.imread(str(picture)).shape[:2]
    assert shapes == dict(
        config=(6, 8), tiles=(24, 32), keep=(24, 32), size=(10, 12))


def test_tool_reports_unreadable_masks(synthesize, masks, tmp_path):
    masks[1].write_bytes(b'broken')
    told = synthesize('--masks', masks[0].parent, '--out', tmp_path / 'out',
                      '--num-steps', 1, fails=True)
    assert f'{masks[1]} cannot be read' in told
    assert 'left out: 1; the others are done' in told
    assert len(contents(tmp_path / 'out')) == len(masks) - 1


def test_tool_reads_coloured_masks(synthesize, masks, tmp_path):
    labels = cv2.imread(str(masks[0]), cv2.IMREAD_UNCHANGED)
    labels[labels == 255] = 0
    colours = np.array(META['palette'], np.uint8)
    (tmp_path / 'masks').mkdir()
    cv2.imwrite(str(tmp_path / 'masks/gray.png'), labels)
    cv2.imwrite(str(tmp_path / 'masks/rgb.png'), colours[labels][..., ::-1])
    args = ('--masks', tmp_path / 'masks', '--num-steps', 1, '--out')
    refused = synthesize(*args, tmp_path / 'a', fails=True)
    assert 'rgb.png is a coloured picture' in refused
    refused = synthesize(*args, tmp_path / 'b', '--palette', fails=True)
    assert 'gray.png is a label map' in refused
    assert 'left out: 1' in refused
    gray, rgb = contents(tmp_path / 'a'), contents(tmp_path / 'b')
    assert list(gray) == ['gray_0.png'] and list(rgb) == ['rgb_0.png']
    assert gray['gray_0.png'] == rgb['rgb_0.png']


@pytest.mark.parametrize('args, message', [
    (('--num-samples', 0), 'num_samples must be an integer >= 1, but got 0'),
    (('--solver', 'rk9'), "solver must be one of"),
    (('--palette', 'mars'), 'mars'),
])
def test_wrong_arguments_of_the_tool(synthesize, masks, tmp_path, args,
                                     message):
    refused = synthesize(
        '--masks', masks[0], '--out', tmp_path / 'out', *args, fails=True)
    assert message in refused
    assert not (tmp_path / 'out').exists()
