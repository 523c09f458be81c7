"""Styles: latents with the statistics of other pictures."""

import json

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from mmseg_semflow.flow import tile_network
from mmseg_semflow.pixels import to_uint8
from mmseg_semflow.synthesis import LatentStatistics, Synthesizer
from mmseg_semflow.synthesis.pictures import read_note
from tiny import process_cfg, semflow_cfg

NAMES = 'a.png', 'b.bmp', 'more/c.png'
CHANNELS = 12
MEAN, STD = torch.linspace(-1, 1, CHANNELS), torch.linspace(0.1, 2, CHANNELS)


def statistics(z):
    """Mean and deviation of every channel of (C, h, w)."""
    return z.mean((-2, -1)), z.std((-2, -1), unbiased=False)


@pytest.fixture(scope='module')
def semflow():
    torch.manual_seed(1)
    model = MODELS.build(semflow_cfg()).eval()
    nn.init.normal_(model.network.unet.conv_out.weight, std=0.3)
    return model


@pytest.fixture
def labels():
    return torch.randint(0, 5, (12, 16))


@pytest.fixture
def pictures(tmp_path):
    """A folder of three pictures of two sizes, one in a subfolder."""
    folder = tmp_path / 'pictures'
    (folder / 'more').mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in zip(NAMES, ((8, 12), (8, 12), (6, 4)), strict=True):
        cv2.imwrite(str(folder / name), rng.integers(0, 256, (*size, 3), np.uint8))
    return folder


def encoded(semflow, path, size=None):
    pixels = torch.from_numpy(cv2.imread(str(path))[..., ::-1].copy())
    pixels = pixels.permute(2, 0, 1)[None].float()
    if size is not None:
        pixels = nn.functional.interpolate(
            pixels, size, mode='bilinear', antialias=True)
    return semflow.encode(semflow.codec.normalize(pixels))[0]


def measure(*args, **kwargs):
    style, failed = LatentStatistics.of_pictures(*args, **kwargs)
    assert failed == {}
    return style


def constant(zt, t, condition=None):
    return torch.full_like(zt, 0.3)


def test_a_single_step_lands_on_the_reference():
    """From any time, for every picture of a batch."""
    z = 3 * torch.randn(2, CHANNELS, 8, 6) + 1
    for t in (1., 0.3):
        velocity = LatentStatistics(MEAN, STD).wrap(constant)(z, torch.full((2, ), t))
        for z0 in z - t * velocity:
            mean, std = statistics(z0)
            torch.testing.assert_close(mean, MEAN, rtol=0, atol=1e-5)
            torch.testing.assert_close(std, STD, rtol=1e-4, atol=1e-5)


def test_the_picture_stays_but_for_its_statistics():
    """An affine map of every channel; half the strength goes half the way."""
    z, t = torch.randn(1, CHANNELS, 8, 6), torch.tensor([0.5])
    plain, whole, half = (
        z - t * network(z, t)
        for network in (constant, LatentStatistics(MEAN, STD).wrap(constant),
                        LatentStatistics(MEAN, STD, 0.5).wrap(constant)))
    torch.testing.assert_close(half, (plain + whole) / 2)
    for one, other in zip(plain[0], whole[0], strict=True):
        found = torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))
        assert found[0, 1] > 0.9999


def test_without_a_mean_each_picture_keeps_its_own():
    z, t = torch.randn(2, CHANNELS, 8, 6), torch.tensor([0.5, 0.5])
    z[1] += 1
    plain, styled = (
        z - 0.5 * network(z, t)
        for network in (constant, LatentStatistics(None, STD).wrap(constant)))
    for before, after in zip(plain, styled, strict=True):
        mean, std = statistics(after)
        torch.testing.assert_close(mean, statistics(before)[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(std, STD, rtol=1e-4, atol=1e-5)


def test_own_statistics_change_nothing():
    z, t = torch.randn(1, CHANNELS, 8, 6), torch.tensor([0.7])
    own = LatentStatistics(*statistics(z[0] - 0.7 * 0.3))
    torch.testing.assert_close(own.wrap(constant)(z, t), constant(z, t))


def test_the_end_is_left_alone_within_a_batch():
    z, t = torch.randn(2, CHANNELS, 8, 6), torch.tensor([0., 0.5])
    velocity = LatentStatistics(MEAN, STD).wrap(constant)(z, t)
    assert torch.equal(velocity[0], constant(z, t)[0])
    assert (velocity[1] != constant(z, t)[1]).any()


def test_flat_channels_get_the_mean_alone():
    z, t = torch.full((1, CHANNELS, 8, 6), 0.7), torch.ones(1)
    z0 = z - LatentStatistics(MEAN, STD).wrap(constant)(z, t)
    torch.testing.assert_close(
        z0, MEAN.view(1, -1, 1, 1).expand_as(z0), rtol=0, atol=0.05)
    z0 = torch.randn_like(z) - LatentStatistics(MEAN, 0 * STD).wrap(constant)(z, t)
    assert z0.isfinite().all()


def test_a_condition_is_passed_on():
    def network(zt, t, condition=None):
        return condition['velocity']

    z, t = torch.randn(1, CHANNELS, 4, 4), torch.zeros(1)
    found = LatentStatistics(MEAN, STD).wrap(network)(z, t, dict(velocity=2 * z))
    assert torch.equal(found, 2 * z)


@pytest.mark.parametrize('solver, num_steps', [('euler', 3), ('heun', 2)])
def test_without_strength_all_bytes_stay(semflow, labels, solver, num_steps):
    plain = Synthesizer(semflow, num_steps, solver)
    styled = Synthesizer(
        semflow, num_steps, solver, style=LatentStatistics(MEAN, STD, 0.))
    mask = plain.perturbed(labels, 0)
    assert torch.equal(
        styled._to_images(mask, [(labels, 0)]), plain._to_images(mask, [(labels, 0)]))


def test_pictures_have_the_statistics_and_masks_do_not(semflow, labels):
    """Of whole pictures, also where tiles make them; and the same each time."""
    mean, std = MEAN / 4, STD / 10
    how = dict(tile_size=(8, 8), segment_steps=2)
    styled, plain = (
        Synthesizer(semflow, 2, **how, style=style)
        for style in (LatentStatistics(mean, std), None))
    image = styled._to_images(styled.perturbed(labels, 0), [(labels, 0)])
    found = statistics(semflow.encode(image)[0])
    torch.testing.assert_close(found[0], mean, rtol=0, atol=1e-4)
    torch.testing.assert_close(found[1], std, rtol=1e-3, atol=1e-4)
    assert torch.equal(styled(labels)[0], to_uint8(image)[0])

    real = torch.randint(0, 256, (3, 12, 16), dtype=torch.uint8)
    there = [s.trajectory(semflow.codec.normalize(real[None].float()), 0., 1.)
             for s in (styled, plain)]
    assert torch.equal(*there)
    mask = styled.perturbed(labels, 0)
    assert torch.equal(styled.trajectory(mask, 1., 0.)[-1], styled(labels)[0])
    ours, theirs = (s.evaluate(real, labels, styled(labels)) for s in (styled, plain))
    assert torch.equal(ours['sample_label_maps'], theirs['sample_label_maps'])


def test_the_style_stands_around_the_tiles(semflow, labels):
    style = LatentStatistics(MEAN, STD, 0.5)
    synthesizer = Synthesizer(semflow, 2, tile_size=(8, 8), style=style)
    expected = semflow.mask_to_image(
        synthesizer.perturbed(labels, 0), 2,
        wrap=lambda network: style.wrap(tile_network(network, (4, 4), (2, 2))))
    assert torch.equal(synthesizer(labels), to_uint8(expected))


@pytest.mark.parametrize('size', [None, (4, 6)])
def test_statistics_of_a_folder_and_of_a_file(semflow, pictures, size):
    style = measure(semflow, pictures, size=size)
    cells = torch.cat([
        encoded(semflow, pictures / name, size).flatten(1)
        for name in NAMES
    ], 1)
    torch.testing.assert_close(style.mean, cells.mean(1))
    torch.testing.assert_close(style.std, cells.std(1, unbiased=False))
    alone = measure(semflow, pictures / 'a.png', 0.5)
    torch.testing.assert_close(
        (alone.mean, alone.std), statistics(encoded(semflow, pictures / 'a.png')))
    assert alone.strength == 0.5


def test_unreadable_pictures_are_named_and_the_others_used(semflow, pictures):
    (pictures / 'a.png').write_bytes(b'broken')
    style, failed = LatentStatistics.of_pictures(semflow, pictures)
    assert list(failed) == [str(pictures / 'a.png')]
    assert 'a.png cannot be read as a picture' in failed[str(pictures / 'a.png')]
    (pictures / 'a.png').unlink()
    assert style.settings == measure(semflow, pictures).settings


def test_no_readable_picture(semflow, tmp_path):
    with pytest.raises(FileNotFoundError, match='missing: there is no such file'):
        LatentStatistics.of_pictures(semflow, tmp_path / 'missing')
    with pytest.raises(ValueError, match=f'folder {tmp_path} holds no pictures'):
        LatentStatistics.of_pictures(semflow, tmp_path)
    (tmp_path / 'a.jpg').write_bytes(b'broken')
    with pytest.raises(ValueError, match=f'style {tmp_path} holds no picture that '
                       'can be read: .*a.jpg cannot be read'):
        LatentStatistics.of_pictures(semflow, tmp_path)


def test_settings_tell_styles_apart(semflow, labels):
    """Those of a synthesizer without style are what they were."""
    assert 'style' not in Synthesizer(semflow, 2).settings
    assert 'style' not in Synthesizer(semflow, 2).protocol
    styles = [LatentStatistics(MEAN, STD), LatentStatistics(MEAN, STD, 0.5),
              LatentStatistics(STD, STD), LatentStatistics(MEAN, MEAN.abs()),
              LatentStatistics(None, STD)]
    found = [json.dumps(Synthesizer(semflow, 2, style=s).settings) for s in styles]
    assert len(set(found)) == 5
    # Of the same pictures it is the same, however a device adds them up.
    assert LatentStatistics(MEAN, STD, 1., 'ab').settings == LatentStatistics(
        MEAN + 1e-7, STD, 1., 'ab').settings
    synthesizer = Synthesizer(semflow, 2, style=styles[1])
    assert synthesizer.settings['style'] == dict(
        type='LatentStatistics', strength=0.5,
        source=styles[0].settings['source'])
    assert 'style LatentStatistics 0.5' in synthesizer.protocol


def test_a_config_of_a_style_is_the_style(semflow, labels):
    cfg = dict(type='LatentStatistics', mean=MEAN.tolist(), std=STD.tolist())
    one, other = (Synthesizer(semflow, 2, style=style)
                  for style in (cfg, LatentStatistics(MEAN, STD)))
    assert one.settings == other.settings
    assert torch.equal(one(labels), other(labels))
    assert not torch.equal(one(labels), Synthesizer(semflow, 2)(labels))


@pytest.mark.parametrize('args, message', [
    ((MEAN, STD, 1.5), r'strength must be in \[0, 1\], but got 1.5'),
    ((MEAN, STD, -1), r'strength must be in \[0, 1\], but got -1'),
    ((MEAN, STD, float('nan')), r'strength must be in \[0, 1\], but got nan'),
    ((MEAN, STD[1:]), r'must be of one shape \(C, \), but got \(12,\) and \(11,\)'),
    ((None, STD[None]), r'std, .* of one shape \(C, \), but got \(1, 12\)'),
    ((None, -STD), 'must be finite and std >= 0, but got None and'),
    ((MEAN, -STD), 'must be finite and std >= 0, but got'),
    ((MEAN / 0, STD), 'must be finite and std >= 0, but got'),
])
def test_wrong_arguments(args, message):
    with pytest.raises(ValueError, match=message):
        LatentStatistics(*args)


def test_models_that_a_style_does_not_fit(semflow, pictures):
    with pytest.raises(ValueError, match='statistics of 12 channels.* but got 4'):
        Synthesizer(semflow, style=LatentStatistics(MEAN[:4], STD[:4]))
    with pytest.raises(ValueError, match='statistics of 12 channels.* but got 4'):
        Synthesizer(semflow, style=dict(
            type='LatentStatistics', mean=None, std=STD[:4].tolist()))
    with pytest.raises(ValueError, match=r'strength must be in \[0, 1\], but got 2'):
        LatentStatistics.of_pictures(semflow, pictures, 2)


@pytest.mark.parametrize('name', ['symmflow', 'bbdm', 'dsm'])
def test_other_processes_are_refused(name, pictures):
    model = MODELS.build(semflow_cfg(**process_cfg(name))).eval()
    message = (f'derived for networks that predict the velocity of a rectified flow, '
               f'but that of {type(model.process).__name__} predicts')
    with pytest.raises(ValueError, match=message):
        Synthesizer(model, style=LatentStatistics(MEAN, STD))
    with pytest.raises(ValueError, match=message):
        LatentStatistics.of_pictures(model, pictures)


def test_the_tool_notes_the_style_and_names_what_it_could_not_read(
        run_tool, street, pictures, tmp_path):
    mask = street / 'ann_dir/train/0.png'

    def call(out, *args, **kwargs):
        return run_tool('synthesize.py', '--masks', mask, '--num-steps', 1, '--out',
                        tmp_path / out, *args, **kwargs)

    call('plain')
    call('styled', '--style', pictures, '--style-strength', 0.5)
    plain, styled = (tmp_path / out / '0_0.png' for out in ('plain', 'styled'))
    assert 'style' not in json.loads(read_note(plain))
    assert json.loads(read_note(styled))['style']['strength'] == 0.5
    assert (cv2.imread(str(plain)) != cv2.imread(str(styled))).any()
    assert 'style was' in call('styled', '--style', pictures, fails=True)
    (pictures / 'a.png').write_bytes(b'broken')
    told = call('others', '--style', pictures, fails=True)
    assert f'left out of the style: {pictures}/a.png cannot be read' in told
    assert 'left out: 1; the others are done' in told
    assert (tmp_path / 'others/0_0.png').exists()
    for args, message in {
        ('--style-strength', 0.5): '--style-strength needs --style',
        ('--style', pictures, '--style-strength', 2): 'strength must be in [0, 1]',
        ('--style', tmp_path / 'missing'): 'missing: there is no such file',
    }.items():
        assert message in call('wrong', *args, fails=True)
    assert not (tmp_path / 'wrong').exists()
