"""Reproducible synthesis of images."""

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from mmseg_semflow.flow import PseudoMaskCodec, seeded_generator, uniform_times
from mmseg_semflow.pixels import to_uint8
from mmseg_semflow.synthesis import Synthesizer
from tiny import CODEC, process_cfg, semflow_cfg


@pytest.fixture
def semflow():
    torch.manual_seed(1)
    model = MODELS.build(semflow_cfg()).eval()
    # A fresh UNet ends in small numbers: make its velocities matter.
    nn.init.normal_(model.network.unet.conv_out.weight, std=0.3)
    return model


def labels(height=9, width=14, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 5, (height, width), generator=generator)


def test_same_seed_same_bytes_whatever_else_is_drawn(semflow):
    masks = [labels(seed=i) for i in range(3)]
    first = [Synthesizer(semflow, 2, num_samples=2)(mask) for mask in masks]
    torch.rand(7)
    synthesizer = Synthesizer(semflow, 2, num_samples=3)
    for mask, expected in reversed(list(zip(masks, first, strict=True))):
        assert torch.equal(synthesizer(mask)[:2], expected)


def requests():
    """Masks of two sizes in turns and at length, and which sample of each."""
    masks = [labels(), labels(16, 8), labels(seed=1), labels(seed=2),
             labels(seed=3), labels(seed=4), labels(seed=5), labels(16, 8, 1)]
    return [(mask, place % 2) for place, mask in enumerate(masks)]


def test_the_same_bytes_whatever_is_asked_for_at_once(semflow):
    synthesizer = Synthesizer(semflow, 2)
    wanted = requests()
    together = synthesizer.synthesize(wanted)
    assert len(together) == len(wanted)
    for request, image in zip(wanted, together, strict=True):
        alone, = synthesizer.synthesize([request])
        assert torch.equal(image, alone)
    assert synthesizer.synthesize([]) == []


@pytest.mark.parametrize('name, solver', [
    ('semflow', 'euler'), ('symmflow', 'heun'), ('bbdm', 'bridge')])
def test_batches_change_images_by_rounding_alone(name, solver):
    """At most a level in a value of a thousand; all in their order."""
    torch.manual_seed(1)
    model = MODELS.build(semflow_cfg(**process_cfg(name))).eval()
    nn.init.normal_(model.network.unet.conv_out.weight, std=0.1)
    wanted = requests()
    sizes, decode = [], model.autoencoder.decode
    model.autoencoder.decode = lambda z: (sizes.append(len(z)), decode(z))[1]
    single = Synthesizer(model, 2, solver).synthesize(wanted)
    assert sizes == [1] * 8
    sizes.clear()
    batched = Synthesizer(model, 2, solver, batch_size=4).synthesize(wanted)
    # Those of one size share a batch, whatever stands between them.
    assert sizes == [4, 2, 2]
    assert len(batched) == len(single)
    for a, b in zip(batched, single, strict=True):
        assert a.dtype == torch.uint8 and a.shape == b.shape
        difference = (a.int() - b.int()).abs()
        assert difference.max() <= 1
        assert difference.sum() <= max(1, 1e-3 * difference.numel())
    assert len({image.numpy().tobytes() for image in batched}) == 8


def test_settings_name_a_batch_that_changes_bytes(semflow):
    assert 'batch_size' not in Synthesizer(semflow, 3).settings
    assert Synthesizer(semflow, 3, batch_size=4).settings['batch_size'] == 4


def test_another_seed_or_number_is_another_image(semflow):
    images = [
        image for seed in (0, 1)
        for image in Synthesizer(semflow, 3, num_samples=3, seed=seed)(labels())
    ]
    assert len({image.numpy().tobytes() for image in images}) == 6


def test_without_perturbation_all_samples_are_equal(semflow):
    with pytest.warns(UserWarning, match=r'amplitude=0.* training, 6.*Fig. 8'):
        synthesizer = Synthesizer(semflow, 3, num_samples=3, amplitude=0.)
    images = synthesizer(labels())
    assert torch.equal(images[0], images[1])
    assert torch.equal(images[0], images[2])


def test_noise_is_uniform_within_the_amplitude(semflow):
    mask = labels(64, 64)
    pseudo_mask = Synthesizer(semflow).perturbed(mask, 0)
    codec = semflow.codec
    noise = 127.5 * (pseudo_mask - codec.normalize(codec.encode(mask[None])))
    assert 5.9 < noise.abs().max() <= 6.001
    assert noise.var().item() == pytest.approx(12, rel=0.05)
    assert torch.equal(codec.decode(pseudo_mask)[0], mask)


def test_the_grain_is_that_of_the_training():
    model = MODELS.build(semflow_cfg(codec=dict(CODEC, grain=8))).eval()
    mask = labels(64, 64)
    codec = model.codec
    noise = Synthesizer(model).perturbed(mask, 0) - codec.normalize(
        codec.encode(mask[None]))
    bend = noise[..., :9].diff(n=2, dim=-1)
    assert noise.abs().max() > 0.02
    torch.testing.assert_close(bend, 0 * bend, rtol=0, atol=1e-5)


def test_odd_sizes_are_padded_and_cropped(semflow):
    synthesizer = Synthesizer(semflow, 2)
    pseudo_mask = synthesizer.perturbed(labels(9, 13), 0)
    padded = torch.nn.functional.pad(pseudo_mask, (0, 1, 0, 1), mode='replicate')
    expected = to_uint8(semflow.mask_to_image(padded, 2))[0, :, :9, :13]
    assert torch.equal(synthesizer(labels(9, 13))[0], expected)


@pytest.mark.parametrize('name, solver', [
    ('semflow', 'heun'), ('symmflow', 'heun'), ('bbdm', 'bridge')])
def test_it_is_the_reverse_flow_of_the_perturbed_mask(name, solver):
    """With the noise, where there is any, of the mask, seed and number."""
    model = MODELS.build(semflow_cfg(**process_cfg(name))).eval()
    nn.init.normal_(model.network.unet.conv_out.weight, std=0.3)
    synthesizer = Synthesizer(model, 4, solver, seed=3)
    pseudo_mask = synthesizer.perturbed(labels(), 2)
    expected = model.transport(
        pseudo_mask, uniform_times(4, 1., 0.), solver,
        generators=[seeded_generator(3, 2, to_uint8(pseudo_mask))])
    assert torch.equal(synthesizer.synthesize([(labels(), 2)])[0],
                       to_uint8(expected)[0])


def test_one_tile_equals_none_and_more_tiles_fit_together(semflow):
    plain = Synthesizer(semflow, 3)
    assert torch.equal(
        Synthesizer(semflow, 3, tile_size=(16, 16))(labels()),
        plain(labels()))
    # Far from all borders of tiles only one tile counts: one Euler step there
    # is that of the tile alone.
    tiled = Synthesizer(semflow, 1, tile_size=(8, 8), tile_stride=(8, 8))
    pseudo_mask = tiled.perturbed(labels(16, 24), 0)
    alone = to_uint8(semflow.mask_to_image(pseudo_mask[..., 8:, 8:16], 1))
    assert torch.equal(tiled(labels(16, 24))[0, :, 8:, 8:16], alone[0])


def test_size_resizes_labels_by_nearest(semflow):
    large = labels().repeat_interleave(3, 0).repeat_interleave(3, 1)
    assert torch.equal(
        Synthesizer(semflow, 2, size=(9, 14))(large),
        Synthesizer(semflow, 2)(labels()))


def test_evaluate_gives_what_metrics_compare(semflow):
    synthesizer = Synthesizer(
        semflow, 3, num_samples=2, segment_steps=1, round_trip=True)
    image = torch.randint(0, 256, (3, 8, 12), dtype=torch.uint8)
    mask = labels(16, 24)
    found = synthesizer.evaluate(image, mask)
    small = found['gt_label_map']
    assert small.shape == (8, 12)
    samples = synthesizer(small)
    assert torch.equal(found['samples'], samples)
    assert torch.equal(found['fake_img'], samples[0])
    assert torch.equal(found['gt_img'], image)
    codec = semflow.codec
    of_samples = semflow.image_to_mask(codec.normalize(samples.float()), 1)
    assert torch.equal(found['sample_label_maps'], codec.decode(of_samples))
    there = semflow.image_to_mask(codec.normalize(image[None].float()), 3)
    back = to_uint8(semflow.mask_to_image(there, 3))[0]
    assert torch.equal(found['round_trip_img'], back)
    through_labels, = synthesizer.synthesize([(codec.decode(there)[0], 0)])
    assert torch.equal(found['label_round_trip_img'], through_labels)


def test_spreads_of_samples_and_of_their_starts(semflow):
    """In latents, which are the pixels here."""
    with pytest.raises(ValueError, match='num_samples must be >= 2, but got 1'):
        Synthesizer(semflow, 3, noise_gain=True)
    synthesizer = Synthesizer(semflow, 3, num_samples=3, seed=5, noise_gain=True)
    image = torch.randint(0, 256, (3, 8, 12), dtype=torch.uint8)
    found = synthesizer.evaluate(image, labels(8, 12))
    small = found['gt_label_map']
    starts = [synthesizer.perturbed(small, number) for number in range(3)]
    ends = [semflow.codec.normalize(s.float()) for s in found['samples']]
    for key, pixels in (('start_spread', starts), ('sample_spread', ends)):
        expected = sum((pixels[i] - pixels[j]).abs().mean()
                       for i, j in ((0, 1), (0, 2), (1, 2))) / 3
        assert found[key] == pytest.approx(expected.item(), rel=1e-5)


def test_the_start_has_the_noise_of_the_process():
    semflow = MODELS.build(
        semflow_cfg(
            process=dict(type='RectifiedFlow', mask_noise=0.7),
            codec=dict(CODEC, amplitude=0.)))
    states = []
    network = semflow.network

    class Noted(nn.Module):

        def forward(self, zt, t, condition=None):
            states.append(zt)
            return network(zt, t, condition)

    semflow.network = Noted()
    synthesizer = Synthesizer(semflow, 1, num_samples=2, noise_gain=True)
    image = torch.randint(0, 256, (3, 8, 12), dtype=torch.uint8)
    found = synthesizer.evaluate(image, labels(8, 12))
    expected = (states[0] - states[1]).abs().mean().item()
    assert found['start_spread'] == pytest.approx(expected, rel=1e-6)
    # The mean difference of two normal variables of deviation 0.7.
    assert expected == pytest.approx(0.7 * 2 / 3.1416**0.5, rel=0.15)


def test_an_exact_flow_makes_the_round_trip(semflow):
    """With a constant velocity the way back is the way there."""

    class Constant(nn.Module):

        def forward(self, zt, t, condition=None):
            return torch.full_like(zt, 0.2)

    semflow.network = Constant()
    image = torch.randint(10, 200, (3, 8, 12), dtype=torch.uint8)
    found = Synthesizer(
        semflow, 5, round_trip=True).evaluate(image, labels(8, 12))
    assert torch.equal(found['round_trip_img'], image)


@pytest.mark.parametrize('kwargs, message', [
    (dict(num_samples=0), 'num_samples must be an integer >= 1, but got 0'),
    (dict(num_steps=0), 'num_steps must be an integer >= 1, but got 0'),
    (dict(segment_steps=-1), 'num_steps must be an integer >= 1, but got -1'),
    (dict(solver='rk9'), "solver must be one of .* but got 'rk9'"),
    (dict(amplitude=100.), r'amplitude must be in .*100.0\), but got 100.0'),
    (dict(amplitude=-1), 'amplitude must be in .* but got -1'),
    (dict(size=(0, 3)), r'size must be .* but got \(0, 3\)'),
    (dict(seed=1.), 'seed must be an integer, but got 1.0'),
    (dict(seed=True), 'seed must be an integer, but got True'),
    (dict(tile_stride=(8, 8)), 'needs a tile_size'),
    (dict(tile_size=(8, 8), tile_stride=(10, 8)), 'must not exceed'),
    (dict(tile_size=(7, 8)), r'tile_size must .* 2, but got \(7, 8\)'),
    (dict(batch_size=0), 'batch_size must be an integer >= 1, but got 0'),
    (dict(batch_size=2.), 'batch_size must be an integer >= 1, but got 2.0'),
    (dict(batch_size=2, solver='dopri5'),
     "batch_size must be 1 for 'dopri5', which chooses its steps .* got 2"),
    (dict(dtype='float8'), "dtype must be None or 'bfloat16', but got 'float8'"),
])
def test_wrong_settings(semflow, kwargs, message):
    with pytest.raises(ValueError, match=message):
        Synthesizer(semflow, **kwargs)


def test_unknown_label(semflow):
    with pytest.raises(ValueError, match=r'labels must be below num_classes=5 or 255'):
        Synthesizer(semflow)(labels() + 3)


def test_trajectory_ends_where_the_flow_ends(semflow):
    pixels = PseudoMaskCodec(**CODEC).normalize(
        torch.randint(0, 256, (1, 3, 9, 13)).float())
    times = uniform_times(4, 0., 1.)
    states = semflow.transport(pixels, times, return_trajectory=True)
    assert states.shape == (5, 1, 3, 9, 13)
    torch.testing.assert_close(states[0], pixels)
    torch.testing.assert_close(states[-1], semflow.transport(pixels, times))
