"""Both directions from Python and from the command line."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from mmseg.apis import inference_model, init_model

from mmseg_semflow.apis import SemFlowInferencer
from mmseg_semflow.synthesis.folder import synthesize_folder
from mmseg_semflow.synthesis.pictures import read_note
from mmseg_semflow.models import Synthesizer
from tiny import CODEC, META, save_checkpoint


@pytest.fixture
def masks(street):
    return sorted((street / 'ann_dir/train').iterdir())


def test_segment_equals_mmseg(files, street):
    image = str(street / 'img_dir/val/0.jpg')
    model = init_model(*files, device='cpu')
    expected = inference_model(model, image).pred_sem_seg.data[0].numpy()
    inferencer = SemFlowInferencer(*files, device='cpu')
    np.testing.assert_array_equal(inferencer.segment(image), expected)
    array = cv2.imread(image)
    np.testing.assert_array_equal(inferencer.segment(array), expected)
    rgb = SemFlowInferencer(*files, device='cpu', channel_order='rgb')
    np.testing.assert_array_equal(rgb.segment(array[..., ::-1]), expected)
    many = inferencer.segment([image, array], return_datasamples=True)
    for sample in many:
        np.testing.assert_array_equal(sample.pred_sem_seg.data[0], expected)
    assert inferencer.classes == META['classes']
    assert inferencer.palette == META['palette']


def test_steps_and_solver_of_one_call(files, street):
    inferencer = SemFlowInferencer(*files, device='cpu')
    image = str(street / 'img_dir/val/0.jpg')
    before = inferencer.segment(image)
    other = inferencer.segment(image, num_steps=5, solver='heun')
    assert (other != before).any()
    np.testing.assert_array_equal(inferencer.segment(image), before)
    with pytest.raises(ValueError, match='num_steps must be .* but got 0'):
        inferencer.segment(image, num_steps=0)
    np.testing.assert_array_equal(inferencer.segment(image), before)


def test_synthesize_equals_the_synthesizer(files, masks):
    inferencer = SemFlowInferencer(*files, device='cpu')
    labels = cv2.imread(str(masks[0]), cv2.IMREAD_UNCHANGED)
    found = inferencer.synthesize(
        masks[0], num_samples=2, seed=4, num_steps=3)
    synthesizer = Synthesizer(
        inferencer.semflow, 3, num_samples=2, seed=4)
    expected = synthesizer(torch.from_numpy(labels).long())
    expected = expected.permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(found, expected[..., ::-1])
    rgb = SemFlowInferencer(*files, device='cpu', channel_order='rgb')
    found = rgb.synthesize([labels], num_samples=2, seed=4, num_steps=3)
    assert isinstance(found, list)
    np.testing.assert_array_equal(found[0], expected)


def test_trajectory_of_both_directions(files, masks, street):
    inferencer = SemFlowInferencer(*files, device='cpu')
    image = cv2.imread(str(street / 'img_dir/val/0.jpg'))
    there = inferencer.trajectory(image=image, num_steps=3)
    assert there.shape == (4, *image.shape)
    np.testing.assert_array_equal(there[0], image)
    back = inferencer.trajectory(mask=masks[0], num_steps=3, seed=2)
    drawn = inferencer.synthesize(masks[0], num_steps=3, seed=2)
    np.testing.assert_array_equal(back[-1], drawn[0])
    with pytest.raises(ValueError, match='either an image or a mask'):
        inferencer.trajectory()


def test_defaults_of_the_config(files, masks):
    Path(files[0]).write_text(
        Path(files[0]).read_text() + 'synthesis = dict(num_steps=3, size=(6, 8))\n')
    inferencer = SemFlowInferencer(*files, device='cpu')
    assert inferencer.synthesizer().num_steps == 3
    assert inferencer.synthesizer(num_steps=7).num_steps == 7
    assert inferencer.synthesize(masks[0]).shape == (1, 6, 8, 3)


def test_checkpoint_of_another_codec(files, tmp_path):
    save_checkpoint(tmp_path / 'other.pth', codec=dict(CODEC, spacing=150))
    with pytest.raises(ValueError, match='codec with other anchors'):
        SemFlowInferencer(files[0], tmp_path / 'other.pth', device='cpu')


def test_config_of_another_model(files, tmp_path):
    (tmp_path / 'other.py').write_text("model = dict(type='FCN')\n")
    with pytest.raises(ValueError, match="other.py is no config of SemFlow"):
        SemFlowInferencer(tmp_path / 'other.py', files[1])


@pytest.fixture
def synthesize(files, run_tool):
    return lambda *args, **kwargs: run_tool('synthesize.py', *args, **kwargs)


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in Path(folder).rglob('*.png')
    }


def test_tool_draws_what_the_inferencer_draws(files, synthesize, masks,
                                              tmp_path):
    out = tmp_path / 'out'
    synthesize('--masks', masks[0].parent, '--out', out, '--num-samples',
               2, '--seed', 5, '--num-steps', 2, '--solver', 'heun')
    inferencer = SemFlowInferencer(*files, device='cpu')
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


def test_other_weights_are_told_apart_by_their_content(
        files, synthesize, masks, tmp_path):
    args = ('--masks', masks[0], '--out', tmp_path / 'out', '--num-steps', 1)
    synthesize(*args)
    copy = Path(files[1]).read_bytes()
    save_checkpoint(files[1], seed=2)
    assert 'weights was' in synthesize(*args, fails=True)
    Path(files[1]).write_bytes(copy)
    synthesize(*args)


def test_a_changed_mask_is_noticed(synthesize, masks, tmp_path):
    args = ('--masks', masks[0], '--out', tmp_path / 'out', '--num-steps', 1)
    synthesize(*args)
    cv2.imwrite(str(masks[0]), np.zeros((24, 32), np.uint8))
    assert 'mask was' in synthesize(*args, fails=True)


def test_output_inside_the_folder_of_masks(synthesize, masks):
    args = ('--masks', masks[0].parent, '--out', masks[0].parent / 'out',
            '--num-steps', 1)
    synthesize(*args)
    before = contents(masks[0].parent / 'out')
    synthesize(*args)
    assert contents(masks[0].parent / 'out') == before
    assert len(before) == len(masks)


def test_tiles_keep_the_size_of_the_masks(files, synthesize, masks, tmp_path):
    with open(files[0], 'a') as config:
        config.write('synthesis = dict(size=(6, 8))\n')
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


def run_folder(files, masks, out, read=None, **kwargs):
    overwrite = kwargs.pop('overwrite', False)
    inferencer = SemFlowInferencer(*files, device='cpu')
    synthesizer = inferencer.synthesizer(num_steps=2, **kwargs)
    return synthesize_folder(
        synthesizer, read or inferencer.read, masks, out, overwrite)


def test_interrupted_run_continues(files, masks, tmp_path):
    expected = tmp_path / 'expected'
    run_folder(files, masks[0].parent, expected, num_samples=2)
    inferencer = SemFlowInferencer(*files, device='cpu')
    seen = []

    def interrupted(path):
        seen.append(path)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return inferencer.read(path)

    out = tmp_path / 'out'
    with pytest.raises(KeyboardInterrupt):
        run_folder(files, masks[0].parent, out, interrupted, num_samples=2)
    half = contents(out)
    assert 0 < len(half) < len(contents(expected))
    times = {name: os.stat(out / name).st_mtime_ns for name in half}
    run_folder(files, masks[0].parent, out, num_samples=2)
    assert contents(out) == contents(expected)
    assert times == {name: os.stat(out / name).st_mtime_ns for name in half}


def test_existing_pictures_stay_unless_asked(files, masks, tmp_path):
    run_folder(files, masks[0], tmp_path / 'out')
    picture = tmp_path / 'out' / f'{masks[0].stem}_0.png'
    drawn = picture.read_bytes()
    picture.write_bytes(b'mine')
    with pytest.raises(ValueError, match='_0.png is there and was not drawn by'):
        run_folder(files, masks[0], tmp_path / 'out')
    assert picture.read_bytes() == b'mine'
    run_folder(files, masks[0], tmp_path / 'out', overwrite=True)
    assert picture.read_bytes() == drawn


def test_interrupted_overwriting_continues(files, masks, tmp_path):
    """No mix of two seeds is taken for done."""
    folder = masks[0].parent
    run_folder(files, folder, tmp_path / 'expected', seed=1)
    run_folder(files, folder, tmp_path / 'out', seed=0)
    inferencer = SemFlowInferencer(*files, device='cpu')

    def interrupted(path):
        if path == masks[2]:
            raise KeyboardInterrupt
        return inferencer.read(path)

    with pytest.raises(KeyboardInterrupt):
        run_folder(files, folder, tmp_path / 'out', interrupted, seed=1,
                   overwrite=True)
    with pytest.raises(ValueError, match='seed was 0 and is 1 now'):
        run_folder(files, folder, tmp_path / 'out', seed=1)
    run_folder(files, folder, tmp_path / 'out', seed=1, overwrite=True)
    assert contents(tmp_path / 'out') == contents(tmp_path / 'expected')


def test_unreadable_masks_are_reported_and_the_others_done(
        synthesize, masks, tmp_path):
    masks[1].write_bytes(b'broken')
    cv2.imwrite(str(masks[2]), np.full((4, 4), 77, np.uint8))
    out = tmp_path / 'out'
    told = synthesize(
        '--masks', masks[0].parent, '--out', out, '--num-steps', 1, fails=True)
    assert f'{masks[1]} cannot be read' in told
    assert f'{masks[2]} has the labels [77]' in told
    assert 'left out: 2; the others are done' in told
    assert len(contents(out)) == len(masks) - 2


def test_tool_reads_coloured_masks(synthesize, masks, tmp_path):
    labels = cv2.imread(str(masks[0]), cv2.IMREAD_UNCHANGED)
    labels[labels == 255] = 0
    colors = np.array(META['palette'], np.uint8)
    (tmp_path / 'masks').mkdir()
    cv2.imwrite(str(tmp_path / 'masks/gray.png'), labels)
    cv2.imwrite(str(tmp_path / 'masks/rgb.png'), colors[labels][..., ::-1])
    args = ('--masks', tmp_path / 'masks', '--num-steps', 1, '--out')
    refused = synthesize(*args, tmp_path / 'a', fails=True)
    assert 'rgb.png is a coloured picture' in refused
    synthesize(*args, tmp_path / 'b', '--palette')
    found = contents(tmp_path / 'b')
    assert found['gray_0.png'] == found['rgb_0.png']


def test_unreadable_images_are_all_named(files, street, tmp_path):
    for name in 'ab':
        (tmp_path / f'{name}.jpg').write_bytes(b'broken')
    inferencer = SemFlowInferencer(*files, device='cpu')
    with pytest.raises(ValueError, match='a.jpg cannot be read.*b.jpg cannot be'):
        inferencer.segment([
            tmp_path / 'a.jpg', street / 'img_dir/val/0.jpg', tmp_path / 'b.jpg'
        ])
    with pytest.raises(ValueError, match=r'uint8 of shape .* got uint8 of \(4, 4\)'):
        inferencer.segment(np.zeros((4, 4), np.uint8))


def test_segment_beside_a_generator(files, street):
    inferencer = SemFlowInferencer(*files, device='cpu')
    image = street / 'img_dir/val/0.jpg'
    before = inferencer.segment(image)
    pytest.importorskip('mmagic')
    init_default_scope('mmagic')
    np.testing.assert_array_equal(inferencer.segment(image), before)


def test_labels_of_a_dataset_with_a_zero_label(files, masks):
    inferencer = SemFlowInferencer(*files, device='cpu')
    inferencer.model.dataset_meta['reduce_zero_label'] = True
    labels = cv2.imread(str(masks[0]), cv2.IMREAD_UNCHANGED)
    expected = np.where(labels == 0, 255, labels - 1 + (labels == 255))
    assert (inferencer.read(masks[0]).numpy() == expected).all()
    assert (inferencer.read(labels).numpy() == labels).all()


def test_trajectory_in_bfloat16_ends_where_the_samples_are(files, masks):
    inferencer = SemFlowInferencer(*files, device='cpu')
    how = dict(num_steps=3, dtype='bfloat16')
    drawn = inferencer.synthesize(masks[0], **how)[0]
    np.testing.assert_array_equal(
        inferencer.trajectory(mask=masks[0], **how)[-1], drawn)
    assert (inferencer.synthesize(masks[0], num_steps=3)[0] != drawn).any()


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


def test_two_masks_of_one_picture(files, tmp_path):
    for name in ('a.png', 'a.bmp'):
        cv2.imwrite(str(tmp_path / name), np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match='would both write .*a_0.png'):
        run_folder(files, tmp_path, tmp_path / 'out')
