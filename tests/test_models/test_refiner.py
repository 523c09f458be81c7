"""Correction of predicted masks."""

import pytest
import torch
from mmengine.registry import MODELS
from mmseg.registry import MODELS as SEGMENTORS
from mmseg.structures import SegDataSample
from torch import nn

from tiny import segmentor_cfg, semflow_cfg

REFINER = dict(
    type='LatentRefiner', latent_channels=12, num_classes=5, detail=2, channels=8)
AT_START = dict(type='RectifiedFlow', start_fraction=0.5)


def build(**kwargs):
    torch.manual_seed(0)
    model = MODELS.build(
        semflow_cfg(**{'refiner': REFINER, 'process': AT_START, **kwargs}))
    nn.init.normal_(model.network.unet.conv_out.weight, std=0.02)
    return model.eval()


def images(size=(8, 12)):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, 3, *size, generator=generator) * 2 - 1


@pytest.mark.parametrize('size', [(8, 12), (9, 13)])
@pytest.mark.parametrize('num_steps', [1, 3])
def test_unlearned_it_changes_no_label(size, num_steps):
    model, plain = build(), build(refiner=None)
    plain.network.load_state_dict(model.network.state_dict())
    expected = plain.codec.decode(plain.image_to_mask(images(size), num_steps))
    refined = model.image_to_mask(images(size), num_steps)
    assert refined.shape == (2, 3, *size)
    assert torch.equal(model.codec.decode(refined), expected)
    colours = model.codec.normalize(model.codec.encode(expected))
    assert torch.equal(refined, colours)


def test_what_it_knows_for_sure_it_corrects():
    model = build()
    bias = model.refiner.layers[-1].bias
    bias.data.view(5, 4)[3] = 1000.
    assert (model.codec.decode(model.image_to_mask(images(), 1)) == 3).all()
    # Synthesis and the trajectory are the flow's own.
    masks = model.codec.normalize(
        model.codec.encode(torch.zeros(1, 8, 12, dtype=torch.int64)))
    before = model.mask_to_image(masks, 2)
    bias.data.zero_()
    assert torch.equal(model.mask_to_image(masks, 2), before)


def test_the_loss_is_cross_entropy_at_the_start_alone():
    weight = [1., 2., 3., 4., 5.]
    model = build(losses=[
        dict(type='MatchingLoss'), dict(type='RefinerLoss', class_weight=weight)])
    nn.init.normal_(model.refiner.layers[-1].weight)
    labels = torch.randint(0, 5, (4, 8, 12))
    labels[:, :2] = 255
    z0, z1, found = torch.randn(3, 4, 12, 4, 6)

    class Field(nn.Module):

        def forward(self, zt, t, condition=None):
            return (found - zt) / (1 - t.view(-1, 1, 1, 1))

    model.network = Field()
    loss = model.loss_of_latents(z0, z1, labels)['loss_refiner']
    expected = nn.functional.cross_entropy(
        model.refiner.scores(found, z0)[:2], labels[:2], torch.tensor(weight),
        ignore_index=255)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize('name', ['refiner', 'network'])
def test_the_network_gets_a_share_of_the_gradient(name):
    z0, z1 = torch.randn(2, 4, 12, 4, 6)
    labels = torch.randint(0, 5, (4, 8, 12))
    gradients = []
    for share in (0., 0.2, 1.):
        model = build(losses=[
            dict(type='MatchingLoss'), dict(type='RefinerLoss', network_share=share)])
        nn.init.normal_(model.refiner.layers[-1].weight)
        torch.manual_seed(1)
        model.loss_of_latents(z0, z1, labels)['loss_refiner'].backward()
        gradients.append(torch.cat([
            (torch.zeros_like(p) if p.grad is None else p.grad).flatten()
            for p in getattr(model, name).parameters()]))
    none, some, all_of_it = gradients
    assert all_of_it.abs().sum() > 0
    expected = 0.2 * all_of_it if name == 'network' else all_of_it
    torch.testing.assert_close(some, expected, rtol=1e-4, atol=1e-8)
    assert torch.equal(none, 0 * all_of_it if name == 'network' else all_of_it)


def test_it_is_small():
    refiner = MODELS.build(
        dict(type='LatentRefiner', latent_channels=32, num_classes=11))
    assert sum(p.numel() for p in refiner.parameters()) <= 200_000


@pytest.mark.parametrize('options, match', [
    (dict(refiner=None), 'RefinerLoss needs a refiner'),
    (dict(process=dict(type='RectifiedFlow')), 'start_fraction .* is 0'),
    (dict(refiner=dict(REFINER, num_classes=4)), 'num_classes .* 5, but got 4'),
    (dict(refiner=dict(REFINER, latent_channels=4)),
     'latent_channels .* 12, but got 4'),
    (dict(refiner=dict(REFINER, detail=3)), "factor 2, but got 3"),
])
def test_what_does_not_fit(options, match):
    with pytest.raises(ValueError, match=match):
        build(losses=[dict(type='RefinerLoss')], **options)


def test_a_share_is_not_negative():
    with pytest.raises(ValueError, match='network_share must be at least 0, .*-0.1'):
        build(losses=[dict(type='RefinerLoss', network_share=-0.1)])


def test_a_checkpoint_has_its_refiner():
    state = build(refiner=None).state_dict()
    with pytest.raises(ValueError, match="'refiner.layers.* is nothing in the check"):
        build().load_state_dict(state)
    build(partial_load=['refiner.']).load_state_dict(state)


@pytest.mark.parametrize('test_cfg', [
    dict(num_steps=1),
    dict(num_steps=2, mode='slide', crop_size=(8, 8), stride=(8, 4))
])
def test_a_segmentor_resizes_the_scores(test_cfg):
    """Not the colours, which would mix at borders."""
    cfg = segmentor_cfg(refiner=REFINER, process=AT_START)
    cfg['test_cfg'] = test_cfg
    segmentor = SEGMENTORS.build(cfg).eval()
    nn.init.normal_(segmentor.semflow.refiner.layers[-1].weight)
    sample = SegDataSample(metainfo=dict(ori_shape=(20, 30), flip=False))
    pixels = images()[:1]
    with torch.no_grad():
        found, = segmentor.predict(pixels, [sample])
        logits = segmentor.encode_decode(pixels)
    resized = nn.functional.interpolate(
        logits, (20, 30), mode='bilinear', align_corners=False)
    assert found.seg_logits.data.shape == (5, 20, 30)
    torch.testing.assert_close(found.seg_logits.data, resized[0])
    assert torch.equal(found.pred_sem_seg.data, resized.argmax(1))
