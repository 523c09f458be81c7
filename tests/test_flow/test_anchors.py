import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmseg_semflow.flow import PseudoMaskCodec


def brute_force(codec, pseudo_mask):
    """Squared L2 distances to all anchors, (B, num_classes, H, W)."""
    anchors = codec.anchors.to(pseudo_mask)
    return (pseudo_mask[:, None] - anchors[:, :, None, None]).square().sum(2)


def test_anchors_are_base_k_digits():
    codec = PseudoMaskCodec(num_classes=171)
    digits = (codec.levels / 50).long()
    weights = torch.tensor([36, 6, 1])
    assert torch.equal(digits @ weights, torch.arange(171))
    assert codec.levels.min() == 0 and codec.levels.max() == 250
    assert codec.levels[2 * 36 + 5 * 6 + 1].tolist() == [100, 250, 50]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_class_survives_any_perturbation(data):
    divisions = data.draw(st.integers(2, 7), 'divisions')
    spacing = data.draw(st.integers(10, 254 // (divisions - 1)), 'spacing')
    num_classes = data.draw(st.integers(1, min(255, divisions**3)), 'num_classes')
    share = data.draw(st.floats(0, 0.98), 'amplitude / (spacing / 2)')
    seed = data.draw(st.integers(0, 999), 'seed')
    codec = PseudoMaskCodec(
        num_classes,
        divisions,
        spacing,
        amplitude=share * spacing / 2,
        grain=data.draw(st.integers(1, 9), 'grain'),
        void_color=_free_color(num_classes, divisions, spacing))
    label_map = torch.arange(num_classes).view(1, 1, -1)
    generator = torch.Generator().manual_seed(seed)
    moved = codec.perturb(codec.encode(label_map), generator)
    assert torch.equal(codec.decode(codec.normalize(moved)), label_map)


def _free_color(num_classes, divisions, spacing):
    # Between all anchors, where they reach to the last level, or beyond them.
    levels = torch.tensor([0., spacing // 2, 127., 255.])
    candidates = torch.cartesian_prod(levels, levels, levels)
    digits = torch.cartesian_prod(*[torch.arange(divisions)] * 3)[:num_classes]
    nearest = torch.cdist(candidates, spacing * digits.float()).amin(1)
    assert nearest.max() >= spacing / 2
    return candidates[nearest.argmax()].int().tolist()


@pytest.mark.parametrize('num_classes, divisions, spacing', [(19, 6, 50),
                                                             (171, 6, 50),
                                                             (11, 3, 125)])
def test_logits_are_distances_up_to_a_constant(num_classes, divisions, spacing):
    codec = PseudoMaskCodec(num_classes, divisions, spacing)
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.rand(
        2, 3, 40, 50, dtype=torch.float64, generator=generator) - 1.5
    distances = brute_force(codec, x)
    torch.testing.assert_close(
        codec.logits(x), x.square().sum(1, keepdim=True) - distances)
    assert torch.equal(codec.decode(x), distances.argmin(1))


def test_decode_finds_the_nearest_anchor_on_a_lattice_of_colours():
    """All ties included: on the lattice the arithmetic of levels is exact."""
    codec = PseudoMaskCodec(19)
    level = torch.arange(0., 256., 5.)
    colors = torch.cartesian_prod(level, level, level).T.reshape(3, -1, 52)
    distances = (colors[None] - codec.levels[:, :, None, None]).square().sum(1)
    decoded = codec.decode(codec.normalize(colors)[None].double())[0]
    chosen = distances.gather(0, decoded[None])[0]
    assert torch.equal(chosen, distances.amin(0))


def test_logits_keep_float32_under_autocast():
    codec = PseudoMaskCodec(19)
    x = torch.rand(1, 3, 8, 8)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        inside = codec.logits(x.bfloat16().float())
    assert inside.dtype == torch.float32
    assert torch.equal(inside, codec.logits(x.bfloat16().float()))


def test_resizing_the_pseudo_mask_equals_resizing_the_logits():
    codec = PseudoMaskCodec(19)
    x = 2 * torch.rand(1, 3, 15, 20, dtype=torch.float64) - 1
    options = dict(size=(31, 57), mode='bilinear', align_corners=False)
    resize = torch.nn.functional.interpolate
    torch.testing.assert_close(
        codec.logits(resize(x, **options)), resize(codec.logits(x), **options))


def test_void_gets_its_colour():
    codec = PseudoMaskCodec(5, void_color=(1, 254, 7))
    pseudo_mask = codec.encode(torch.tensor([[[0, 255, 4]]]))
    assert pseudo_mask[0, :, 0, 1].tolist() == [1, 254, 7]


@pytest.mark.parametrize('void_color', [(255, 255, 255), (0, 240, 60)])
def test_labels_are_recovered_with_void(void_color):
    codec = PseudoMaskCodec(
        19, divisions=3, spacing=120, amplitude=25, void_color=void_color)
    torch.manual_seed(0)
    labels = torch.randint(0, 20, (2, 24, 32))
    labels[labels == 19] = 255
    moved = codec.normalize(codec.perturb(codec.encode(labels)))
    assert torch.equal(codec.recover(moved), labels)
    assert (codec.decode(moved) < 19).all()


def test_normalize_maps_levels_to_the_range_of_the_networks():
    normalized = PseudoMaskCodec.normalize(torch.arange(256.))
    assert normalized[0] == -1 and normalized[-1] == 1
    torch.testing.assert_close(normalized.diff(), torch.full((255, ), 2 / 255))


def test_codes_choose_among_the_colours_of_eq_7():
    every = PseudoMaskCodec(27, 3, 100, void_color=(50, 50, 50))
    codes = (26, 0, 13)
    chosen = PseudoMaskCodec(3, 3, 100, codes=codes)
    assert torch.equal(chosen.levels, every.levels[list(codes)])
    label_map = torch.tensor([[[2, 0, 1]]])
    decoded = chosen.decode(chosen.normalize(chosen.encode(label_map)))
    assert torch.equal(decoded, label_map)


@pytest.mark.parametrize('kwargs, match', [
    (dict(num_classes=2, codes=(1, 1)), r'2 distinct .* got \(1, 1\)'),
    (dict(num_classes=2, codes=(1, )), r'2 distinct .* got \(1,\)'),
    (dict(num_classes=2, codes=(1, 216)), r'\[0, 216\), .* got \(1, 216\)'),
    (dict(num_classes=0), 'num_classes must be >= 1, but got 0'),
    (dict(num_classes=28, divisions=3, spacing=100),
     r'divisions\^3=27 anchors, fewer than num_classes=28'),
    (dict(num_classes=2, divisions=6, spacing=51),
     r'spacing \* \(divisions - 1\) < 255 .* spacing=51, divisions=6: 255'),
    (dict(num_classes=2, amplitude=25), r'amplitude must be in .* got 25'),
    (dict(num_classes=2, amplitude=-1), r'amplitude must be in .* got -1'),
    (dict(num_classes=2, grain=0), 'grain must be an integer >= 1, but got 0'),
    (dict(num_classes=2, grain=2.5), 'grain must be an integer .* got 2.5'),
    (dict(num_classes=216), r'void_color=\(255, 255, 255\) is 8.7 levels'),
    (dict(num_classes=7, void_color=(0, 50, 20)),
     r'anchor \[0, 50, 0\] of class 6, nearer than spacing / 2 = 25'),
    (dict(num_classes=7, void_color=(0, 256, 0)), 'three levels in'),
    (dict(num_classes=7, ignore_index=3), r'\[7, 255\], but got 3'),
    (dict(num_classes=7, ignore_index=-1), r'\[7, 255\], but got -1'),
])
def test_arguments_that_break_a_rule(kwargs, match):
    with pytest.raises(ValueError, match=match):
        PseudoMaskCodec(**kwargs)


def test_labels_that_are_known_to_be_valid_need_no_look():
    codec = PseudoMaskCodec(5)
    label_map = torch.tensor([[[0, 255, 4], [3, 2, 1]]])
    assert torch.equal(codec.encode(label_map, check=False),
                       codec.encode(label_map))


def test_encode_names_unknown_labels():
    with pytest.raises(ValueError, match=r'labels \[7, 9\]: .* num_classes=5 or 255'):
        PseudoMaskCodec(5).encode(torch.tensor([[[0, 9, 7, 255]]]))
