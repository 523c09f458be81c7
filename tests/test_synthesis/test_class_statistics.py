"""The style of every class, that of a reference picture."""

import json

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from mmseg_semflow.apis import SemFlowInferencer
from mmseg_semflow.synthesis import (
    ClassStatistics,
    MultiResolutionFusion,
    Styles,
    Synthesizer,
)
from mmseg_semflow.synthesis import class_statistics as module
from mmseg_semflow.synthesis import style as style_module
from mmseg_semflow.synthesis.pictures import read_note
from tiny import process_cfg, semflow_cfg

HEIGHT, WIDTH = 24, 32
# Which classes the references have, from the left to the right.
CLASSES = dict(a=(0, 1), b=(1, 2), c=(2, 3))


def columns(*classes, height=HEIGHT, width=WIDTH):
    """Labels, (H, W), in columns of equal width."""
    return torch.tensor(classes).repeat_interleave(
        width // len(classes)).expand(height, -1).contiguous()


@pytest.fixture(scope='module')
def semflow():
    torch.manual_seed(1)
    model = MODELS.build(semflow_cfg()).eval()
    # So little that what it finds follows the blocks of the pictures.
    nn.init.normal_(model.network.unet.conv_out.weight, std=0.05)
    return model


@pytest.fixture
def pictures(tmp_path):
    """A folder of three pictures: blocks of a colour, and noise."""
    rng = np.random.default_rng(0)
    (tmp_path / 'pictures').mkdir()
    for name in CLASSES:
        blocks = rng.integers(0, 2, (3, 4, 3)) * 192
        picture = blocks.repeat(8, 0).repeat(8, 1) + rng.integers(
            0, 64, (HEIGHT, WIDTH, 3))
        cv2.imwrite(str(tmp_path / f'pictures/{name}.png'), picture.astype(np.uint8))
    return tmp_path / 'pictures'


@pytest.fixture
def segmented(semflow, monkeypatch):
    """Let the model find ``CLASSES`` in the references, in order of their names."""
    found = iter(CLASSES.values())

    def image_to_mask(pixels, num_steps):
        labels = columns(*next(found))
        return semflow.codec.normalize(semflow.codec.encode(labels[None]))

    monkeypatch.setattr(semflow, 'image_to_mask', image_to_mask)


def checked(semflow, *args):
    style = ClassStatistics(*args)
    style.check_model(semflow)
    return style


def encoded(semflow, path):
    pixels = torch.from_numpy(cv2.imread(str(path))[..., ::-1].copy())
    return semflow.encode(
        semflow.codec.normalize(pixels.permute(2, 0, 1)[None].float()))[0]


def statistics(z):
    """Mean and deviation of every channel of cells (C, n)."""
    return z.flatten(1).mean(1), z.flatten(1).std(1, unbiased=False)


def constant(zt, t, condition=None):
    return torch.full_like(zt, 0.3)


def named(style, labels, number=0, seed=0):
    """The reference of a sample."""
    return style.record(number, style.choose(labels, number, seed))['style_picture']


def end(style, z, t, requests, seed=0):
    """The image that the styled velocity leads to."""
    network = style.wrap(
        constant, [labels for labels, _ in requests],
        [style.choose(*request, seed) for request in requests])
    return z - t * network(z, torch.full((len(z), ), t))


def test_every_class_has_the_statistics_of_its_own_in_the_reference(
        semflow, pictures, segmented):
    """Those that the reference lacks, and void, stay as they were drawn."""
    style = checked(semflow, pictures)
    labels = columns(0, 1, 2, 255)
    name = named(style, labels)
    assert name in ('a.png', 'b.png')
    reference = encoded(semflow, pictures / name)
    z = 3 * torch.randn(1, 12, HEIGHT // 2, WIDTH // 2) + 1
    for t in (1., 0.3):
        z0 = end(style, z, t, [(labels, 0)])[0]
        width = WIDTH // 8
        for place in range(4):
            own = (..., slice(place * width, (place + 1) * width))
            if place in CLASSES[name[0]]:
                half = CLASSES[name[0]].index(place) * WIDTH // 4
                theirs = reference[..., half:half + WIDTH // 4]
                for found, wanted in zip(
                        statistics(z0[own]), statistics(theirs), strict=True):
                    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
            else:
                torch.testing.assert_close(z0[own], (z - t * 0.3)[0][own])


def test_half_the_strength_goes_half_the_way(semflow, pictures):
    z, requests = torch.randn(1, 12, 12, 16), [(columns(0, 1), 0)]
    none, half, whole = (
        end(checked(semflow, pictures, None, strength), z, 0.5, requests)
        for strength in (0., 0.5, 1.))
    assert torch.equal(none, z - 0.5 * 0.3) and not torch.equal(none, whole)
    torch.testing.assert_close(half, (none + whole) / 2)


def test_samples_of_a_batch_have_their_own_references(semflow, pictures, segmented):
    style = checked(semflow, pictures)
    requests = [(columns(*CLASSES[name]), number)
                for name, number in (('a', 0), ('c', 0), ('b', 4))]
    # The only one that has all classes of the mask.
    assert [named(style, *request) for request in requests] == [
        'a.png', 'c.png', 'b.png'
    ]
    z = torch.randn(3, 12, 12, 16)
    together = end(style, z, 0.5, requests)
    for place, request in enumerate(requests):
        torch.testing.assert_close(
            together[place:place + 1],
            end(style, z[place:place + 1], 0.5, [request]))


def test_the_mask_the_number_and_the_seed_draw(semflow, pictures, segmented):
    style = checked(semflow, pictures)
    labels = columns(4)
    for other in (lambda i: (labels, i, 0), lambda i: (labels, 0, i),
                  lambda i: (columns(*[4] * 31, 255 - i), 0, 0)):
        names = [named(style, *other(i)) for i in range(12)]
        assert names == [named(style, *other(i)) for i in range(12)]
        assert len(set(names)) > 1


def test_the_model_finds_the_classes_of_the_references(semflow, pictures):
    style = checked(semflow, pictures)
    for name, styles in zip(CLASSES, style._references().styles, strict=True):
        image = cv2.imread(str(pictures / f'{name}.png'))[..., ::-1].copy()
        labels = Synthesizer(semflow, 1).segment(
            torch.from_numpy(image).permute(2, 0, 1), 1)
        z0 = encoded(semflow, pictures / f'{name}.png')
        shares = nn.functional.avg_pool2d(
            nn.functional.one_hot(labels, 5).permute(2, 0, 1).float(), 2)
        assert styles
        for label in range(5):
            cells = z0[:, shares[label] > 0.5]
            assert (label in styles) == (cells.shape[1] >= module.MIN_CELLS)
            for found, wanted in zip(
                    styles.get(label, ()), statistics(cells), strict=False):
                torch.testing.assert_close(found[:, 0], wanted)


def test_all_ways_of_drawing_agree(semflow, pictures):
    labels = torch.randint(0, 5, (3, 4)).repeat_interleave(8, 0).repeat_interleave(8, 1)
    cfg = dict(type='ClassStatistics', pictures=str(pictures), strength=0.5)
    styled = Synthesizer(semflow, 2, tile_size=(16, 16), style=cfg)
    plain = Synthesizer(semflow, 2, tile_size=(16, 16))
    image = styled(labels)
    assert not torch.equal(image, plain(labels))
    assert torch.equal(
        styled.trajectory(styled.perturbed(labels, 0), 1., 0.)[-1], image[0])
    assert torch.equal(
        *(s.segment(image[0], 2) for s in (styled, plain)))
    beside = Synthesizer(semflow, 2, tile_size=(16, 16), style=Styles([styled.style]))
    assert torch.equal(beside(labels), image)


@pytest.mark.parametrize('size', [None, (12, 16), (HEIGHT, WIDTH)])
def test_both_passes_of_a_fusion_have_one_reference(
        semflow, pictures, size, monkeypatch):
    style = ClassStatistics(pictures, size)
    synthesizer = MultiResolutionFusion(
        semflow, (12, 16), num_steps=1, size=(HEIGHT, WIDTH), style=style)
    given, wrap = [], style.wrap

    def spy(network, label_maps, choices):
        given.append((label_maps[0].shape, choices))
        return wrap(network, label_maps, choices)

    monkeypatch.setattr(style, 'wrap', spy)
    for number in range(6):
        labels = torch.randint(0, 5, (HEIGHT, WIDTH))
        synthesizer.synthesize([(labels, number)])
        assert [shape for shape, _ in given[-2:]] == [(12, 16), (HEIGHT, WIDTH)]
        assert given[-2][1] == given[-1][1] == [style.choose(labels, number, 0)]
    assert len({choice for _, (choice, ) in given}) > 1


@pytest.mark.parametrize('how', [dict(batch_size=2), dict(dtype='bfloat16')])
def test_sizes_that_do_not_fit_the_autoencoder(semflow, pictures, how):
    """Cells at the border are of the class that the last pixels have."""
    style = ClassStatistics(pictures)
    synthesizer = Synthesizer(semflow, 1, style=style, **how)
    labels = columns(0, 1, width=30, height=23)[:, :29]
    cells = style._cells(labels)
    expected = columns(0, 1, width=30, height=24).view(12, 2, 15, 2)[:, 0, :, 0]
    # The column of both classes is of neither.
    expected[:, 7] = -1
    assert cells.keys() == {0, 1}
    for label, places in cells.items():
        assert torch.equal(places, (expected.flatten() == label).nonzero()[:, 0])
    first, second = synthesizer.synthesize([(labels, 0), (labels, 1)])
    assert first.shape == (3, 23, 29) and not torch.equal(first, second)


def test_memory_formats_change_nothing(semflow, pictures):
    style, requests = checked(semflow, pictures), [(columns(0, 1), 0)]
    z = torch.randn(1, 12, 12, 16)
    assert torch.equal(
        end(style, z, 0.5, requests),
        end(style, z.to(memory_format=torch.channels_last), 0.5, requests))


def test_they_are_read_once_and_again_after_training(semflow, pictures, monkeypatch):
    """And not before they are needed: a model may get its weights later."""
    encode, calls = style_module.encoded_pictures, []
    monkeypatch.setattr(
        style_module, 'encoded_pictures',
        lambda *args: calls.append(1) or encode(*args))
    cfg = dict(type='ClassStatistics', pictures=str(pictures))
    synthesizers = [Synthesizer(semflow, 1, style=cfg) for _ in range(2)]
    assert not calls
    for synthesizer in synthesizers:
        synthesizer(columns(0, 1))
    assert len(calls) == 1
    # Neither counts as a change of what torch watches.
    optimizer = torch.optim.AdamW(semflow.parameters(), lr=1e-3, fused=True)
    for weight in semflow.parameters():
        weight.grad = torch.ones_like(weight)
    kept = {key: value.clone() for key, value in semflow.state_dict().items()}
    optimizer.step()
    assert synthesizers[0].settings and len(calls) == 2
    for key, weight in semflow.state_dict().items():
        weight.data.copy_(kept[key])
    assert synthesizers[1].settings and len(calls) == 3
    assert synthesizers[0].settings and len(calls) == 3


def test_settings_tell_references_apart(semflow, pictures):
    found = [
        json.dumps(checked(semflow, *args).settings)
        for args in ((pictures, ), (pictures, (12, 16)), (pictures / 'a.png', ),
                     (pictures, None, 0.5))
    ]
    assert len(set(found)) == 4
    synthesizer = Synthesizer(semflow, 2, style=checked(semflow, pictures))
    assert synthesizer.settings['style'] == json.loads(found[0])


def test_unreadable_references_are_named_and_the_others_used(semflow, pictures):
    (pictures / 'b.png').write_bytes(b'broken')
    style = checked(semflow, pictures)
    assert 'b.png cannot be read' in style.failed[str(pictures / 'b.png')]
    found = style.settings
    (pictures / 'b.png').unlink()
    module.REFERENCES.clear()
    assert found == style.settings


def test_wrong_arguments(semflow, pictures, tmp_path):
    with pytest.raises(FileNotFoundError, match='missing: there is no such file'):
        checked(semflow, tmp_path / 'missing').choose(columns(0), 0, 0)
    for args, said in (((pictures, (4, )), r'size must be \(height, width\).*4'),
                       ((pictures, None, 2.), r'strength must be in \[0, 1\].*2')):
        with pytest.raises(ValueError, match=said):
            ClassStatistics(*args)
    style = ClassStatistics(pictures)
    with pytest.raises(ValueError, match='call check_model first'):
        assert style.settings
    style.check_model(semflow)
    with pytest.raises(ValueError, match='a choice for every label map, but got 0 for'):
        style.wrap(constant, [columns(0)])
    with pytest.raises(ValueError, match='the labels of 1 pictures, but got 0'):
        style.wrap(constant)(torch.zeros(1, 12, 12, 16), torch.ones(1))
    model = MODELS.build(semflow_cfg(**process_cfg('bbdm')))
    with pytest.raises(ValueError, match='ClassStatistics is derived for networks'):
        ClassStatistics(pictures).check_model(model)


def test_the_tools_draw_by_class(files, run_tool, street, pictures, tmp_path):
    mask = street / 'ann_dir/train/0.png'
    size = ('--size', HEIGHT, WIDTH, '--num-steps', 1)
    run_tool('synthesize.py', '--masks', mask, *size, '--out', tmp_path / 'out',
             '--style', pictures, '--style-by-class')
    note = json.loads(read_note(tmp_path / 'out/0_0.png'))
    assert note['style']['type'] == 'ClassStatistics'
    inferencer = SemFlowInferencer(*files, device='cpu')
    style = inferencer.styled_synthesizer(
        pictures, by_class=True, size=(HEIGHT, WIDTH))[0].style
    assert style.size == (HEIGHT, WIDTH) and note['style'] == style.settings

    (pictures / 'a.png').write_bytes(b'broken')
    out = tmp_path / 'set'
    told = run_tool(
        'generate_dataset.py', '--out', out, '--num-images', 6, *size, '--seed', 3,
        '--min-agreement', 0, '--style', pictures, '--style-by-class')
    assert told.count(f'left out of the style: {pictures}/a.png cannot be read') == 2
    records = list(map(json.loads, (out / 'manifest.jsonl').read_text().splitlines()))
    style = inferencer.styled_synthesizer(
        pictures, by_class=True, size=(HEIGHT, WIDTH))[0].style
    for record in records:
        labels = torch.from_numpy(cv2.imread(
            str(out / f'ann_dir/train/{record["number"]:06d}.png'), 0).astype(int))
        assert record['style_picture'] == named(style, labels, record['number'], 3)
    assert all(record['style']['type'] == 'ClassStatistics' for record in records)
    for name, args in {
            'synthesize.py': ('--masks', mask),
            'generate_dataset.py': ('--num-images', 1, *size)}.items():
        told = run_tool(
            name, '--out', tmp_path / 'no', *args, '--style-by-class', fails=True)
        assert '--style-by-class needs --style' in told
    assert not (tmp_path / 'no').exists()


def test_unreadable_references_of_a_config_are_named(files, pictures):
    cfg = Config.fromfile(files[0])
    cfg.synthesis = dict(
        style=dict(type='ClassStatistics', pictures=str(pictures)))
    cfg.dump(files[0])
    (pictures / 'a.png').write_bytes(b'broken')
    inferencer = SemFlowInferencer(*files, device='cpu')
    synthesizer, unread = inferencer.styled_synthesizer(num_steps=1)
    assert list(unread) == [str(pictures / 'a.png')]
    assert isinstance(synthesizer.style, ClassStatistics)
