"""The style of every class, that of a reference picture."""

import json

import cv2
import numpy as np
import pytest
import torch
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

    def image_to_mask(pixels, num_steps, generators=None):
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


def end(style, z, t, requests, seed=0):
    """The image that the styled velocity leads to."""
    return z - t * style.wrap(constant, requests, seed)(z, torch.full((len(z), ), t))


def test_every_class_has_the_statistics_of_its_own_in_the_reference(
        semflow, pictures, segmented):
    """Those that the reference lacks, and void, stay as they were drawn."""
    style = checked(semflow, pictures)
    labels = columns(0, 1, 2, 255)
    assert style.record(0, labels)['style_picture'] in ('a.png', 'b.png')
    name = style.record(0, labels)['style_picture']
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
    assert [style.record(number, labels)['style_picture']
            for labels, number in requests] == ['a.png', 'c.png', 'b.png']
    z = torch.randn(3, 12, 12, 16)
    together = end(style, z, 0.5, requests)
    for place, request in enumerate(requests):
        torch.testing.assert_close(
            together[place:place + 1],
            end(style, z[place:place + 1], 0.5, [request]))


def test_the_mask_the_number_and_the_seed_draw(semflow, pictures, segmented):
    style = checked(semflow, pictures)
    labels = columns(4)
    for other in (lambda i: (i, labels, 0), lambda i: (0, labels, i),
                  lambda i: (0, columns(*[4] * 31, 255 - i), 0)):
        names = [style.record(*other(i))['style_picture'] for i in range(12)]
        assert names == [style.record(*other(i))['style_picture'] for i in range(12)]
        assert len(set(names)) > 1


def test_the_model_finds_the_classes_of_the_references(semflow, pictures):
    style = checked(semflow, pictures)
    style.failed
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


def test_both_passes_of_a_fusion_have_one_reference(semflow, pictures, monkeypatch):
    style = ClassStatistics(pictures, (12, 16))
    synthesizer = MultiResolutionFusion(
        semflow, (12, 16), num_steps=1, size=(HEIGHT, WIDTH), style=style)
    chosen, choose = [], style._choose
    monkeypatch.setattr(
        style, '_choose', lambda *args: chosen.append(choose(*args)) or chosen[-1])
    for number in range(6):
        labels = torch.randint(0, 5, (HEIGHT, WIDTH))
        synthesizer.synthesize([(labels, number)])
    assert len(chosen) == 12 and chosen[::2] == chosen[1::2]
    assert len(set(chosen)) > 1


def test_they_are_read_once_and_again_after_training(semflow, pictures, monkeypatch):
    """And not before they are needed: a model may get its weights later."""
    encode, calls = module.encoded_pictures, []
    monkeypatch.setattr(
        module, 'encoded_pictures', lambda *args: calls.append(1) or encode(*args))
    cfg = dict(type='ClassStatistics', pictures=str(pictures))
    synthesizers = [Synthesizer(semflow, 1, style=cfg) for _ in range(2)]
    assert not calls
    for synthesizer in synthesizers:
        synthesizer(columns(0, 1))
    assert len(calls) == 1
    weight = semflow.network.unet.conv_out.weight
    optimizer = torch.optim.AdamW([weight], lr=1e-3)
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert synthesizers[0].settings and len(calls) == 2
    semflow.load_state_dict(semflow.state_dict())
    assert synthesizers[1].settings and len(calls) == 3


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
    (pictures / 'b.png').unlink()
    assert style.settings == checked(semflow, pictures).settings


def test_wrong_arguments(semflow, pictures, tmp_path):
    with pytest.raises(FileNotFoundError, match='missing: there is no such file'):
        checked(semflow, tmp_path / 'missing').record(0, columns(0))
    for args, said in (((pictures, (4, )), r'size must be \(height, width\).*4'),
                       ((pictures, None, 2.), r'strength must be in \[0, 1\].*2')):
        with pytest.raises(ValueError, match=said):
            ClassStatistics(*args)
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
        'generate_dataset.py', '--out', out, '--num-images', 3, *size,
        '--min-agreement', 0, '--style', pictures, '--style-by-class')
    assert told.count(f'left out of the style: {pictures}/a.png cannot be read') == 2
    records = list(map(json.loads, (out / 'manifest.jsonl').read_text().splitlines()))
    assert {record['style_picture'] for record in records} <= {'b.png', 'c.png'}
    assert all(record['style']['type'] == 'ClassStatistics' for record in records)
    for name, args in {
            'synthesize.py': ('--masks', mask),
            'generate_dataset.py': ('--num-images', 1, *size)}.items():
        told = run_tool(
            name, '--out', tmp_path / 'no', *args, '--style-by-class', fails=True)
        assert '--style-by-class needs --style' in told
    assert not (tmp_path / 'no').exists()
