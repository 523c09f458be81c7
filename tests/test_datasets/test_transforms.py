import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmseg.registry import TRANSFORMS

from mmseg_semflow.flow import PseudoMaskCodec
from tiny import CODEC, transforms_pipeline


def generate(label_map, codec=CODEC, **kwargs):
    transform = TRANSFORMS.build(dict(type='GeneratePseudoMask', codec=codec))
    return transform(dict(gt_seg_map=label_map, **kwargs))


@pytest.mark.parametrize('dtype', [np.uint8, np.int64])
@pytest.mark.parametrize('num_classes', [5, 19, 171])
def test_equals_the_codec(num_classes, dtype):
    rng = np.random.default_rng(0)
    label_map = rng.integers(0, num_classes, (13, 17)).astype(dtype)
    label_map[3:5, 2:9] = 255
    codec = dict(num_classes=num_classes)
    results = generate(label_map, codec)
    expected = PseudoMaskCodec(num_classes).encode(
        torch.from_numpy(label_map.astype(np.int64))[None])[0]
    found = torch.from_numpy(results['gt_pseudo_mask']).permute(2, 0, 1)
    assert results['gt_pseudo_mask'].dtype == np.uint8
    assert torch.equal(found.float(), expected)
    assert results['codec'] == PseudoMaskCodec(num_classes).spec


def test_flipped_labels_need_not_be_contiguous():
    label_map = np.arange(4, dtype=np.uint8).reshape(2, 2)[:, ::-1]
    assert generate(label_map)['gt_pseudo_mask'][0, 0].tolist() == [0, 0, 200]


@pytest.mark.parametrize('dtype', [np.uint8, np.int32])
def test_unknown_label_is_named_with_its_file(dtype):
    label_map = np.zeros((4, 4), dtype)
    label_map[1, 1:3] = 7, 9
    with pytest.raises(
            ValueError, match=r'ann/3.png has the labels \[7, 9\]: .*5 or 255'):
        generate(label_map, seg_map_path='ann/3.png')


def test_labels_beyond_8_bits_are_named_with_their_file():
    with pytest.raises(ValueError, match=r'a.png has the labels \[-1, 300\]'):
        generate(np.array([[-1, 0, 300]]), seg_map_path='a.png')


def test_perturbation_stays_below_the_amplitude():
    transform = TRANSFORMS.build(dict(type='PerturbPseudoMask'))
    levels = np.full((8, 9, 3), 200, np.uint8)
    moved = transform(
        dict(gt_pseudo_mask=levels.copy(), codec=dict(amplitude=6)))
    moved = moved['gt_pseudo_mask']
    assert moved.dtype == np.float32
    assert 0 < np.abs(moved - levels).max() <= 6


def test_a_grain_lies_over_height_and_width():
    transform = TRANSFORMS.build(dict(type='PerturbPseudoMask'))
    levels = np.full((9, 17, 3), 200, np.uint8)
    torch.manual_seed(0)
    moved = transform(
        dict(gt_pseudo_mask=levels, codec=dict(amplitude=6, grain=8)))
    torch.manual_seed(0)
    expected = PseudoMaskCodec(2, amplitude=6, grain=8).perturb(
        torch.full((1, 3, 9, 17), 200.))
    np.testing.assert_allclose(
        moved['gt_pseudo_mask'], expected[0].movedim(0, -1).numpy())


def test_packed_sample(street):
    packed = Compose(transforms_pipeline())(
        dict(
            img_path=str(street / 'img_dir/train/0.jpg'),
            seg_map_path=str(street / 'ann_dir/train/0.png'),
            reduce_zero_label=False,
            seg_fields=[]))
    sample = packed['data_samples']
    codec = PseudoMaskCodec(**CODEC)
    assert packed['inputs'].shape == (3, 24, 32)
    assert sample.gt_pseudo_mask.data.shape == (3, 24, 32)
    assert sample.codec == codec.spec
    labels = sample.gt_sem_seg.data
    decoded = codec.decode(codec.normalize(sample.gt_pseudo_mask.data[None]))
    assert torch.equal(decoded[labels != 255], labels[labels != 255])


def test_transforms_must_stand_in_order():
    perturb = TRANSFORMS.build(dict(type='PerturbPseudoMask'))
    pack = TRANSFORMS.build(dict(type='PackSemFlowInputs'))
    for transform in (perturb, pack):
        with pytest.raises(ValueError, match='GeneratePseudoMask must stand bef'):
            transform(dict(gt_seg_map=np.zeros((2, 2), np.uint8)))
    results = generate(np.zeros((2, 2), np.uint8))
    with pytest.raises(ValueError, match='amplitude=6.0, but .* not perturbed'):
        pack(results)
