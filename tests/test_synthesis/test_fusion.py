"""Two passes: large regions of the size of training, small ones anew."""

import json

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from mmseg_semflow.apis import SemFlowInferencer
from mmseg_semflow.networks.style_token import latent_style
from mmseg_semflow.pixels import resize_labels, to_uint8
from mmseg_semflow.synthesis import (
    LatentStatistics,
    MultiResolutionFusion,
    Synthesizer,
)
from mmseg_semflow.synthesis.fusion import MIN_COMPONENT, large_components
from mmseg_semflow.synthesis.pictures import read_note
from tiny import process_cfg, semflow_cfg

BASE = (8, 12)


def build(**kwargs):
    torch.manual_seed(1)
    model = MODELS.build(semflow_cfg(**kwargs)).eval()
    nn.init.normal_(model.network.unet.conv_out.weight, std=0.3)
    return model


@pytest.fixture
def semflow():
    """With noise on the mask latent, which both passes have to repeat."""
    return build(process=dict(type='RectifiedFlow', mask_noise=0.5))


@pytest.fixture
def labels():
    """A large region, and small squares in it, one at the border of cells."""
    label_map = torch.zeros(16, 24).long()
    label_map[4:8, 4:8] = 1
    label_map[11:13, 17:20] = 2
    return label_map


def drawn(synthesizer, label_map, number=0):
    """The picture before it is rounded."""
    with torch.no_grad():
        return synthesizer._synthesize_batch([(label_map, number)])


def low_latent(semflow, label_map, **kwargs):
    """Pass 1, by the plain synthesizer."""
    small = resize_labels(label_map, BASE)
    first = drawn(Synthesizer(semflow, 3, **kwargs), small)
    return semflow.encode(
        nn.functional.interpolate(
            first, label_map.shape, mode='bicubic', antialias=True).clamp(-1, 1))


class Towards(nn.Module):
    """A network whose every path is the straight one to a picture."""

    def __init__(self, z0):
        super().__init__()
        self.z0 = z0

    def forward(self, zt, t, condition=None):
        return (zt - self.z0) / t.view(-1, 1, 1, 1)


def test_components_of_one_label_meet_at_corners():
    label_map = np.array([[1, 0, 0, 2], [0, 1, 2, 0], [0, 0, 0, 255]])
    everything = large_components(label_map, 0)
    assert everything.all()
    np.testing.assert_array_equal(large_components(label_map, 2), label_map != 255)
    # Zeros are one component of 7 around the others, which have 2.
    np.testing.assert_array_equal(large_components(label_map, 3), label_map == 0)
    assert not large_components(label_map, 8).any()
    apart = np.array([[1, 0, 1], [1, 0, 0]])
    np.testing.assert_array_equal(
        large_components(apart, 2), [[1, 1, 0], [1, 1, 1]])


def test_a_cell_is_held_by_most_of_its_pixels(semflow, labels):
    fusion = MultiResolutionFusion(semflow, BASE, 0.1)
    held = fusion.held_cells(labels)[0]
    expected = torch.ones(8, 12).bool()
    expected[2:4, 2:4] = False
    # Two of their four pixels are not most; three are, in the cells before.
    expected[5:7, 9] = False
    assert torch.equal(held, expected)
    # Cells of padding are like the pixels that they repeat.
    assert fusion.held_cells(labels[:15, :23]).shape == (1, 8, 12)


def test_where_all_is_held_the_picture_is_that_of_pass_1(semflow, labels):
    fusion = MultiResolutionFusion(semflow, BASE, 0, num_steps=3)
    expected = semflow.autoencoder.decode(low_latent(semflow, labels))
    assert torch.equal(drawn(fusion, labels), expected)


@pytest.mark.parametrize('solver', ['euler', 'heun'])
def test_where_nothing_is_held_the_picture_is_that_of_tiles(
        semflow, labels, solver):
    how = dict(num_steps=2, solver=solver, tile_stride=(6, 6))
    fusion = MultiResolutionFusion(semflow, BASE, 1.1, **how)
    tiles = Synthesizer(semflow, tile_size=BASE, **how)
    assert torch.equal(drawn(fusion, labels), drawn(tiles, labels))


def test_small_components_are_free_and_large_ones_held(semflow, labels):
    fusion = MultiResolutionFusion(semflow, BASE, 0.1, num_steps=3)
    image, low = drawn(fusion, labels), low_latent(semflow, labels)
    held = fusion.held_cells(labels)[None].expand_as(low)
    z0 = semflow.encode(image)
    torch.testing.assert_close(z0[held], low[held])
    assert ((z0 - low)[~held].abs() > 1e-3).float().mean() > 0.9
    # What is free was drawn within what is held, not by tiles alone.
    tiles = semflow.encode(
        drawn(Synthesizer(semflow, 3, tile_size=BASE), labels))
    assert ((z0 - tiles)[~held].abs() > 1e-3).float().mean() > 0.9


@pytest.fixture
def passes(semflow, monkeypatch):
    """Times and states of every pass that the model makes."""
    states = []
    solve = semflow.process.solve

    def listen(network, z, times, solver, return_trajectory, generators, callback):
        found = solve(network, z, times, solver, True, generators, callback)
        states.append((times, found))
        return found[-1]

    monkeypatch.setattr(semflow.process, 'solve', listen)
    return states


def test_held_cells_lie_on_the_path_of_pass_1(semflow, labels, passes):
    """From where pass 2 started, its noise included, at all of its times."""
    fusion = MultiResolutionFusion(semflow, BASE, 0.1, num_steps=3, seed=4)
    drawn(fusion, labels, 2)
    (_, first), (times, second) = passes
    assert first.shape[-2:] == (4, 6) and second.shape[-2:] == (8, 12)
    z0, z1 = second[-1], semflow.process.start_of_synthesis(
        semflow.encode(fusion.perturbed(labels, 2)),
        fusion._generators('mask_to_image', fusion.perturbed(labels, 2), [2]))
    held = fusion.held_cells(labels)
    for t, state in zip(times[1:], second[1:], strict=True):
        expected = (1 - t) * z0 + t * z1
        torch.testing.assert_close(
            state * held, expected * held, rtol=0, atol=1e-5)


def test_a_path_that_is_that_of_pass_1_stays(semflow, labels, passes):
    """To one grey, of which the enlarged picture is the same: at all of its times."""
    semflow.network = Towards(0.25)
    fused = drawn(MultiResolutionFusion(semflow, BASE, 0.1, num_steps=4), labels)
    tiles = drawn(Synthesizer(semflow, 4, tile_size=BASE), labels)
    torch.testing.assert_close(fused, tiles, rtol=0, atol=1e-5)
    torch.testing.assert_close(fused, torch.full_like(fused, 0.25))
    _, (_, fused), (_, alone) = passes
    torch.testing.assert_close(fused, alone, rtol=0, atol=1e-5)
    assert (alone[0] - alone[-1]).abs().max() > 0.5


@pytest.mark.parametrize('size', [BASE, (6, 12), (5, 7)])
def test_one_pass_where_the_base_is_large_enough(semflow, size):
    label_map = torch.randint(0, 5, size)
    assert torch.equal(
        MultiResolutionFusion(semflow, BASE, 0, num_steps=3)(label_map),
        Synthesizer(semflow, 3)(label_map))


def test_one_side_that_exceeds_the_base_takes_two_passes(semflow):
    label_map = torch.randint(0, 5, (6, 24))
    fusion = MultiResolutionFusion(semflow, BASE, 0, num_steps=3)
    expected = semflow.autoencoder.decode(low_latent(semflow, label_map))
    assert torch.equal(fusion(label_map), to_uint8(expected))


def test_the_seed_and_the_number_decide(semflow, labels):
    """And nothing else: not what was drawn before, nor odd sizes."""
    labels = labels[:15, :23]
    images = [
        image for seed in (0, 1) for image in MultiResolutionFusion(
            semflow, BASE, 0.1, num_steps=2, num_samples=2, seed=seed)(labels)
    ]
    assert images[0].shape == (3, 15, 23)
    assert len({image.numpy().tobytes() for image in images}) == 4
    torch.rand(7)
    again, = MultiResolutionFusion(
        semflow, BASE, 0.1, num_steps=2, seed=1).synthesize([(labels, 1)])
    assert torch.equal(again, images[3])


def test_batches_change_images_by_rounding_alone(semflow, labels):
    wanted = [(labels, 0), (labels.flip(0), 0), (labels, 1), (labels.flip(1), 3)]
    single, batched = (
        MultiResolutionFusion(
            semflow, BASE, 0.1, num_steps=2, batch_size=size).synthesize(wanted)
        for size in (1, 3))
    for one, other in zip(single, batched, strict=True):
        assert (one.int() - other.int()).abs().max() <= 1


def test_both_passes_have_the_style(semflow, labels):
    style = LatentStatistics(torch.full((12, ), 0.1), torch.full((12, ), 0.05))
    fusion = MultiResolutionFusion(semflow, BASE, 0, num_steps=3, style=style)
    expected = semflow.autoencoder.decode(low_latent(semflow, labels, style=style))
    assert torch.equal(drawn(fusion, labels), expected)
    assert fusion.settings['style'] == style.settings


def test_both_passes_have_the_token_of_one_style(labels):
    """Not of another training picture each: pass 2 looks like pass 1."""
    semflow = build(wrappers=[
        dict(type='StyleToken', latent_channels=12, token_channels=16)])
    token = semflow.wrappers[0]
    for part in (token.styles, token.masks, token.project[-1].weight):
        nn.init.normal_(part)
    token.num_seen.fill_(256)
    found = drawn(MultiResolutionFusion(semflow, BASE, 1, num_steps=3), labels)
    windows = Synthesizer(semflow, 3, tile_size=BASE)
    mask = windows.perturbed(labels, 0)
    with torch.no_grad():
        expected, other = (windows._to_images(mask, [(labels, 0)], condition=condition)
                           for condition in (
                               dict(style=latent_style(low_latent(semflow, labels))),
                               None))
    assert torch.equal(found, expected) and not torch.equal(found, other)


def test_settings_and_protocol(semflow):
    fusion = MultiResolutionFusion(semflow, BASE, num_steps=2)
    assert fusion.settings == dict(
        Synthesizer(semflow, 2, tile_size=BASE).settings,
        fusion=dict(base_size=[8, 12], min_component=MIN_COMPONENT))
    assert MIN_COMPONENT * 1024**2 == 20000
    assert fusion.protocol.endswith('seed 0, fused with 8x12 above 0.0191')


@pytest.mark.parametrize('kwargs, message', [
    (dict(base_size=(7, 8)), r'base_size must .* factor 2, but got \(7, 8\)'),
    (dict(base_size=8), r'base_size must be \(height, width\).* but got 8'),
    (dict(tile_stride=(10, 8)), r'tile_stride=\(10, 8\) must not exceed base_size'),
    (dict(tile_size=(8, 8)), r'have its base_size=\(8, 12\): leave tile_size out'),
    (dict(min_component=-0.1), 'min_component must be >= 0, but got -0.1'),
    (dict(min_component=float('nan')), 'min_component must be >= 0, but got nan'),
    (dict(num_steps=0), 'num_steps must be an integer >= 1, but got 0'),
])
def test_wrong_arguments(semflow, kwargs, message):
    with pytest.raises(ValueError, match=message):
        MultiResolutionFusion(semflow, **{'base_size': BASE, **kwargs})


@pytest.mark.parametrize('name', ['symmflow', 'bbdm', 'dsm'])
def test_other_processes_are_refused(name):
    with pytest.raises(ValueError, match='MultiResolutionFusion is derived for .* '
                       'velocity of a rectified flow'):
        MultiResolutionFusion(build(**process_cfg(name)), BASE)


def test_the_tool_makes_what_the_inferencer_makes(files, run_tool, street, tmp_path):
    """Whatever size or tiles the config has; with the settings in the note."""
    with open(files[0], 'a') as config:
        config.write('\nsynthesis = dict(size=(6, 8), tile_size=(6, 8))\n')
    mask = street / 'ann_dir/train/0.png'
    args = ('synthesize.py', '--masks', mask, '--num-steps', 2, '--out')
    run_tool(*args, tmp_path / 'out', '--fusion', 12, 16, '--tile-stride', 6, 4)
    inferencer = SemFlowInferencer(*files, device='cpu')
    expected, = inferencer.synthesize(
        mask, num_steps=2, base_size=(12, 16), tile_stride=(6, 4))
    picture = tmp_path / 'out/0_0.png'
    assert expected.shape == (24, 32, 3)
    np.testing.assert_array_equal(cv2.imread(str(picture)), expected)
    note = json.loads(read_note(picture))
    assert note['fusion']['base_size'] == [12, 16]
    assert note['tile_stride'] == [6, 4]
    # A style is measured at the size of pass 1.
    real = street / 'img_dir/train'
    run_tool(*args, tmp_path / 'styled', '--fusion', 12, 16, '--style', real)
    style, _ = LatentStatistics.of_pictures(inferencer.semflow, real, size=(12, 16))
    note = json.loads(read_note(tmp_path / 'styled/0_0.png'))
    assert note['style'] == style.settings
    refused = run_tool(*args, tmp_path / 'wrong', '--fusion', 12, 16, '--tile-size',
                       12, 16, fails=True)
    assert 'leave out --tile-size' in refused
    assert not (tmp_path / 'wrong').exists()
