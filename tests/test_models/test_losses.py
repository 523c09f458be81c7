"""The losses of a training, against their formulas."""

from pathlib import Path

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.registry import MODELS
from torch import nn

from tiny import VAE, network_cfg, process_cfg, semflow_cfg

KL = dict(
    autoencoder=dict(type='KLAutoencoder', vae=VAE),
    network=network_cfg(channels=4))
MATCHING = dict(type='MatchingLoss')
MAP = dict(type='OneStepMapLoss')
IMAGE = dict(type='OneStepImageLoss')


class Field(nn.Module):
    """A known velocity in place of the network."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.calls = []

    def forward(self, zt, t, condition=None):
        self.calls.append((zt, t))
        return self.function(zt, t.view(-1, 1, 1, 1))


def build(*losses, field=None, **kwargs):
    model = MODELS.build(semflow_cfg(losses=losses or None, **kwargs))
    if field is not None:
        model.network = Field(field)
    return model


def batch(model, size=(16, 24)):
    labels = torch.randint(0, 5, (4, *size))
    labels[:, :3, :5] = 255
    levels = model.codec.encode(labels)
    images = torch.rand(4, 3, *size) * 2 - 1
    return images, model.codec.normalize(levels), labels


def loss_of(model, *inputs, seed=1):
    torch.manual_seed(seed)
    return model.loss(*inputs)


def exact(model, images, pseudo_masks):
    z0, z1 = (model.autoencoder.encode(x).mean for x in (images, pseudo_masks))
    return lambda zt, t: z1 - z0


def test_matching_is_the_mean_square_of_eq_10():
    model = build(field=lambda zt, t: zt)
    images, pseudo_masks, labels = batch(model)
    z0 = model.autoencoder.encode(images).mean
    z1 = model.autoencoder.encode(pseudo_masks).mean
    losses = loss_of(model, images, pseudo_masks, labels)
    (zt, t), = model.network.calls
    s = t.view(-1, 1, 1, 1)
    torch.testing.assert_close(zt, (1 - s) * z0 + s * z1)
    torch.testing.assert_close(
        losses, dict(loss_flow=((zt - (z1 - z0))**2).mean()))
    assert t.dtype == torch.float32 and len(set(t.tolist())) == 4


def test_matching_of_a_joint_flow_has_a_loss_for_each_half():
    model = build(dict(MATCHING, weight=3.), **process_cfg('symmflow'))
    model.network = Field(lambda zt, t: zt)
    inputs = batch(model)
    losses = loss_of(model, *inputs)
    torch.manual_seed(1)
    z0, z1 = model.encode_pair(*inputs[:2])
    point = model.process.sample(z0, z1)
    error = 3 * (point.state - point.target).square()
    torch.testing.assert_close(
        losses,
        dict(
            loss_image=error[:, :12].mean(), loss_mask=error[:, 12:].mean()))


def test_a_cell_weighs_as_much_as_its_pixels_that_are_not_void():
    """Pixel by pixel, on cells of 2 x 2 with 0 to 4 void pixels."""
    model = build(dict(MATCHING, ignore_void=True), field=lambda zt, t: 0 * zt)
    images, pseudo_masks, _ = batch(model, (4, 10))
    labels = torch.zeros(4, 4, 10, dtype=torch.int64)
    for column, void in enumerate([(), (0, ), (0, 1), (0, 1, 2), (0, 1, 2, 3)]):
        for pixel in void:
            labels[:, pixel // 2, 2 * column + pixel % 2] = 255
    z0, z1 = model.encode_pair(images, pseudo_masks)
    of_pixels = (z1 - z0).square().mean(1)
    of_pixels = of_pixels.repeat_interleave(2, 1).repeat_interleave(2, 2)
    expected = of_pixels[labels != 255].mean()
    found = loss_of(model, images, pseudo_masks, labels)['loss_flow']
    torch.testing.assert_close(found, expected)


def test_void_counts_only_if_asked_to():
    for ignore_void in (False, True):
        model = build(
            dict(MATCHING, ignore_void=ignore_void),
            field=lambda zt, t: torch.zeros_like(zt))
        images, pseudo_masks, labels = batch(model)
        other = pseudo_masks.clone()
        other[:, :, :3, :5] = 0.7
        first = loss_of(model, images, pseudo_masks, labels)['loss_flow']
        second = loss_of(model, images, other, labels)['loss_flow']
        # One row of void lies in cells that hold other pixels too.
        other[:, :, 2:4, :6] = pseudo_masks[:, :, 2:4, :6]
        other[:, :, :3, 4:6] = pseudo_masks[:, :, :3, 4:6]
        inside = loss_of(model, images, other, labels)['loss_flow']
        assert first != second
        assert (first == inside) == ignore_void


def test_the_true_velocity_has_no_loss():
    model = build(MATCHING, dict(MAP, scale=100.), IMAGE)
    inputs = batch(model)
    model.network = Field(exact(model, *inputs[:2]))
    losses = loss_of(model, *inputs)
    assert losses['loss_flow'] == 0
    assert losses['loss_one_step'] < 1e-6
    assert losses['loss_one_step_image'] < 1e-6


def test_a_batch_of_void_alone_is_finite():
    model = build(dict(MATCHING, ignore_void=True), MAP)
    images, pseudo_masks, labels = batch(model)
    losses = model.loss(images, pseudo_masks, torch.full_like(labels, 255))
    assert losses['loss_flow'] == 0 and losses['loss_one_step'] == 0


def towards(model, inputs, end):
    """A field whose step from any point ends in something, and its pixels."""
    target = torch.rand_like(model.autoencoder.encode(inputs[0]).mean)
    model.network = Field(lambda zt, t: (target - zt) / (end - t))
    return model.autoencoder.decode(target)


def test_the_map_loss_is_cross_entropy_of_the_step_to_the_mask():
    class_weight = [1., 2., 3., 4., 5.]
    model = build(
        MATCHING,
        dict(MAP, weight=0.3, scale=2., class_weight=class_weight),
        process=dict(type='RectifiedFlow', start_fraction=0.5))
    inputs = batch(model)
    pixels = towards(model, inputs, 1)
    loss = loss_of(model, *inputs)['loss_one_step']
    t = model.network.calls[0][1]
    assert (t[:len(t) // 2] == 0).all() and (t[len(t) // 2:] > 0).all()
    expected = nn.functional.cross_entropy(
        2 * model.codec.logits(pixels),
        inputs[2],
        weight=torch.tensor(class_weight),
        ignore_index=255)
    torch.testing.assert_close(loss, 0.3 * expected)


def dice(logits, labels):
    """V-Net's Dice of the softmax, all classes of an image together."""
    valid = labels != 255
    p = logits.softmax(1)
    y = nn.functional.one_hot(labels * valid, 5).movedim(-1, 1) * valid[:, None]
    overlap = (p * y).flatten(1).sum(1)
    size = p.square().flatten(1).sum(1) + y.flatten(1).sum(1)
    return (1 - 2 * overlap / (size + 2e-3)).mean()


@pytest.mark.parametrize('cfg, formula', [
    (dict(type='mmseg.CrossEntropyLoss', avg_non_ignore=True),
     lambda logits, labels: nn.functional.cross_entropy(
         logits, labels, ignore_index=255)),
    # By default mmsegmentation counts void pixels in the mean, with no loss.
    (dict(type='mmseg.CrossEntropyLoss', loss_weight=2.),
     lambda logits, labels: 2 * (labels != 255).float().mean() *
     nn.functional.cross_entropy(logits, labels, ignore_index=255)),
    (dict(type='mmseg.DiceLoss', use_sigmoid=False), dice)
], ids=['cross-entropy', 'over all pixels', 'dice'])
def test_losses_of_mmsegmentation_on_the_logits(cfg, formula):
    model = build(MATCHING, dict(MAP, weight=0.3, scale=2., loss=cfg))
    inputs = batch(model)
    pixels = towards(model, inputs, 1)
    loss = loss_of(model, *inputs)['loss_one_step']
    expected = 0.3 * formula(2 * model.codec.logits(pixels), inputs[2])
    torch.testing.assert_close(loss, expected)


def test_the_image_loss_is_the_difference_of_the_step_to_the_image():
    model = build(MATCHING, dict(IMAGE, weight=0.3))
    inputs = batch(model)
    pixels = towards(model, inputs, 0)
    loss = loss_of(model, *inputs)['loss_one_step_image']
    torch.testing.assert_close(loss, 0.3 * (pixels - inputs[0]).abs().mean())


def test_the_image_loss_by_another_criterion():
    model = build(MATCHING, dict(IMAGE, weight=2., loss=dict(type='torch.nn.MSELoss')))
    inputs = batch(model)
    pixels = towards(model, inputs, 0)
    loss = loss_of(model, *inputs)['loss_one_step_image']
    torch.testing.assert_close(loss, 2 * (pixels - inputs[0]).square().mean())


def test_the_image_loss_looks_at_the_image_as_the_autoencoder_has_it():
    """An exact network has no loss, though the autoencoder loses much."""
    model = build(MATCHING, IMAGE, **KL)
    images, pseudo_masks, labels = batch(model)
    torch.manual_seed(2)
    z0, z1 = model.encode_pair(images, pseudo_masks)
    model.network = Field(lambda zt, t: z1 - z0)
    losses = model.loss_of_latents(z0, z1, labels)
    assert losses['loss_flow'] < 1e-9
    assert losses['loss_one_step_image'] < 1e-6
    decoded = model.autoencoder.decode(z0)
    assert (decoded - images).abs().mean() > 0.1


def test_losses_of_the_ends_alone():
    process = dict(type='RectifiedFlow', start_fraction=0.5, end_fraction=0.25)
    model = build(
        MATCHING, dict(MAP, weight=1., scale=2., start_only=True),
        dict(IMAGE, weight=1., last_fraction=0.25), process=process)
    images, pseudo_masks, labels = batch(model)
    target = torch.rand_like(model.autoencoder.encode(images).mean)
    model.network = Field(
        lambda zt, t: torch.where(t == 0, target - zt, zt - target))
    losses = loss_of(model, images, pseudo_masks, labels)
    pixels = model.autoencoder.decode(target)
    torch.testing.assert_close(
        losses['loss_one_step'],
        nn.functional.cross_entropy(
            2 * model.codec.logits(pixels[:2]), labels[:2], ignore_index=255))
    torch.testing.assert_close(
        losses['loss_one_step_image'], (pixels[3] - images[3]).abs().mean())


def test_the_image_loss_of_the_last_part_of_a_batch():
    process = dict(type='RectifiedFlow', start_fraction=0.25, end_fraction=0.25)
    model = build(MATCHING, dict(IMAGE, weight=1., last_fraction=0.5), process=process)
    inputs = batch(model)
    target = torch.rand_like(model.autoencoder.encode(inputs[0]).mean)
    model.network = Field(lambda zt, t: (zt - target) / t.clamp(min=1e-3))
    pixels = model.autoencoder.decode(target)
    torch.testing.assert_close(
        loss_of(model, *inputs)['loss_one_step_image'],
        (pixels[2:] - inputs[0][2:]).abs().mean(), rtol=1e-4, atol=1e-5)


def test_losses_of_an_end_that_no_sample_has():
    with pytest.raises(ValueError, match='start_fraction of the process is 0'):
        build(MATCHING, dict(MAP, start_only=True))


@pytest.mark.parametrize('fraction', [0, 1.5])
def test_an_image_loss_of_no_part_or_more_than_all(fraction):
    with pytest.raises(ValueError, match=rf'must be in \(0, 1\], but got {fraction}'):
        build(MATCHING, dict(IMAGE, last_fraction=fraction))


@pytest.mark.parametrize('parts, losses', [
    ({}, [MATCHING]),
    (KL, [MATCHING]),
    (KL, [MATCHING, MAP]),
    (KL, [IMAGE]),
    ({}, [dict(MAP, loss=dict(type='mmseg.DiceLoss'))]),
    (process_cfg('symmflow'), [MAP, IMAGE]),
    (process_cfg('dsm'), [MAP]),
    (process_cfg('bbdm'), [IMAGE]),
    (process_cfg('bbdm_segmentor'), [MAP]),
], ids=['patches', 'kl', 'kl, map', 'kl, image', 'dice', 'joint', 'diffusion',
        'bridge to images', 'bridge to masks'])
def test_gradients_reach_the_network_alone(parts, losses):
    model = build(*losses, **parts)
    model.network.null_prompt.normal_()
    sum(model.loss(*batch(model)).values()).backward()
    missing = [
        name for name, p in model.network.named_parameters()
        if p.grad is None or not p.grad.any()
    ]
    # The keys of an attention over equal prompt tokens cannot matter.
    assert all('attn2.to_q' in name or 'attn2.to_k' in name or 'norm2' in name
               for name in missing), missing
    assert all(p.grad is None for p in model.autoencoder.parameters())


@pytest.mark.parametrize('name, loss, direction', [
    ('bbdm', 'OneStepMapLoss', 'image_to_mask'),
    ('bbdm_segmentor', 'OneStepImageLoss', 'mask_to_image'),
    ('dsm', 'OneStepImageLoss', 'mask_to_image')])
def test_a_direction_that_the_process_does_not_serve(name, loss, direction):
    with pytest.raises(ValueError, match=f'alone, but {loss} asks for {direction}'):
        build(MATCHING, dict(type=loss), **process_cfg(name))


def test_two_losses_of_one_kind_need_names():
    dice = dict(MAP, loss=dict(type='mmseg.DiceLoss'))
    model = build(MATCHING, MAP, dice)
    inputs = batch(model)
    with pytest.raises(ValueError, match="two of losses are logged as "
                       "'loss_one_step': set the name"):
        model.loss(*inputs)
    named = build(MATCHING, MAP, dict(dice, name='dice'),
                  dict(IMAGE, name='pixels'))
    torch.manual_seed(1)
    losses = named.loss(*inputs)
    assert list(losses) == [
        'loss_flow', 'loss_one_step', 'loss_dice', 'loss_pixels']
    alone = build(dice)
    alone.load_state_dict(named.state_dict())
    torch.testing.assert_close(
        loss_of(alone, *inputs)['loss_one_step'], losses['loss_dice'])


def test_class_weights_of_another_number_of_classes():
    with pytest.raises(ValueError, match='num_classes=5 values, but got 2'):
        build(dict(MAP, class_weight=[1, 2]))


def test_whole_numbers_as_class_weights():
    model = build(dict(MAP, class_weight=[1, 2, 3, 4, 5]))
    assert model.loss(*batch(model))['loss_one_step'].isfinite()


def test_class_weights_belong_to_one_loss():
    with pytest.raises(ValueError, match=r'DiceLoss.*but got \[1, 2, 3, 4, 5\] bes'):
        build(dict(MAP, class_weight=[1, 2, 3, 4, 5],
                   loss=dict(type='mmseg.DiceLoss')))


def test_weights_of_classes_are_no_weights_of_a_checkpoint():
    model = build(dict(MAP, class_weight=[1, 2, 3, 4, 5]))
    model.load_state_dict(build().state_dict(), strict=True)


@MODELS.register_module()
class TwoMaps(nn.Module):
    """Known features: the colours, and twice them at half the size."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.), requires_grad=False)

    def forward(self, pixels):
        return [pixels, self.scale * nn.functional.avg_pool2d(pixels, 2)]


FEATURES = dict(type='FeatureLoss', network=dict(type='TwoMaps'))


def test_the_feature_loss_is_one_of_directions():
    model = build(
        MATCHING,
        dict(IMAGE, weight=2., loss=dict(FEATURES, layer_weights=[1., 3.])))
    inputs = batch(model)
    pixels = towards(model, inputs, 0)

    def distance(x, y):
        cosine = nn.functional.cosine_similarity(x, y)
        return (2 - 2 * cosine).mean()

    half = nn.functional.avg_pool2d
    expected = 2 * (distance(pixels, inputs[0]) +
                    3 * distance(half(pixels, 2), half(inputs[0], 2))) / 2
    found = loss_of(model, *inputs)['loss_one_step_image']
    torch.testing.assert_close(found, expected)
    assert not any('scale' in key for key in model.state_dict())


def test_colours_of_the_feature_loss_are_means_of_squares():
    target = torch.rand(1, 3, 16, 8, generator=torch.Generator().manual_seed(0))
    # Brighter by 0.1 in the upper square, by 0.3 in the lower: detail costs nothing.
    pixels = target.flip(-1) + torch.tensor([0.1, 0.3]).repeat_interleave(8).view(-1, 1)
    alone, loss = (MODELS.build(dict(FEATURES, colour_weight=c)) for c in (0., 3.))
    found = loss(pixels, target) - alone(pixels, target)
    torch.testing.assert_close(found, torch.tensor(3 * 0.2))
    with pytest.raises(ValueError, match='colour_weight .* >= 0, but got -1'):
        MODELS.build(dict(FEATURES, colour_weight=-1))


def test_the_feature_loss_wants_a_weight_for_each_map():
    loss = MODELS.build(dict(FEATURES, layer_weights=[1.]))
    with pytest.raises(ValueError, match='must have 2 values, .* but got 1'):
        loss(torch.rand(1, 3, 4, 4), torch.rand(1, 3, 4, 4))


@pytest.mark.parametrize('cfg, package, message', [
    (dict(FEATURES, network=dict(
        type='EfficientNetLiteFeatures', weights='none.pth')),
     'efficientnet_lite_pytorch', 'weights of EfficientNetLiteFeatures must be .* no'),
    (dict(type='LPIPSLoss', weights='none.pth'), 'lpips',
     'weights of LPIPSLoss must be a file of https.*vgg16-397923af.pth, .* no')])
def test_the_frozen_network_is_wanted_by_training_alone(cfg, package, message):
    pytest.importorskip(package)
    model = build(MATCHING, dict(IMAGE, loss=cfg))
    model.eval()
    model.image_to_mask(batch(model)[0], 1)
    with pytest.raises(FileNotFoundError, match=f'{message} .*none.pth'):
        model.train()


@pytest.mark.parametrize('net', ['alex', 'vgg'])
def test_the_perceptual_loss_is_the_metric_of_that_name(net, trunks):
    lpips = pytest.importorskip('lpips')
    loss = MODELS.build(dict(type='LPIPSLoss', net=net, weights=trunks[net][1]))
    torch.manual_seed(5)
    loss.train()
    expected = torch.rand(2, generator=torch.Generator().manual_seed(5))
    assert torch.equal(torch.rand(2), expected)  # building it samples nothing
    model = build(MATCHING, dict(IMAGE, loss=dict(
        type='LPIPSLoss', net=net, weights=trunks[net][1])))
    assert not any('slice' in key for key in model.state_dict())
    target = torch.rand(3, 3, 40, 48, generator=torch.Generator().manual_seed(0))
    pixels = (0.7 * target).requires_grad_()
    found = loss(pixels, target)
    # Step by step, with the heads of the package.
    heads = torch.load(
        Path(lpips.__file__).parent / f'weights/v0.1/{net}.pth', map_location='cpu')
    mean = torch.tensor([.485, .456, .406])[:, None, None]
    std = torch.tensor([.229, .224, .225])[:, None, None]
    last = dict(alex=(1, 4, 7, 9, 11), vgg=(3, 8, 15, 22, 29))[net]
    maps = []
    for x in (pixels.detach(), target):
        x, own = ((x + 1) / 2 - mean) / std, []
        for i, layer in enumerate(trunks[net][0][:last[-1] + 1]):
            x = layer(x)
            if i in last:
                own.append(nn.functional.normalize(x))
        maps.append(own)
    expected = sum(
        (head * (one - other).square()).sum(1).mean()
        for head, one, other in zip(heads.values(), *maps, strict=True))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    found.backward()
    assert pixels.grad.abs().sum() > 0
    assert loss(target, target) == 0


def test_what_breaks_a_rule_of_the_perceptual_loss(trunks, tmp_path):
    pytest.importorskip('lpips')
    with pytest.raises(ValueError, match=r"one of \['alex', 'vgg'\], but got 'res'"):
        MODELS.build(dict(type='LPIPSLoss', net='res', weights=''))
    with pytest.raises(ValueError, match='weights .* None'):
        MODELS.build(dict(type='LPIPSLoss', weights=None))
    loss = MODELS.build(dict(type='LPIPSLoss', weights=trunks['alex'][1]))
    with pytest.raises(ValueError, match='alex.pth must be that of .*vgg16'):
        loss.train()
    with pytest.raises(ValueError, match=r'>= 16 pixels .* got \(8, 16\)'):
        loss(torch.rand(1, 3, 8, 16), torch.rand(1, 3, 8, 16))


def test_the_image_loss_decodes_a_part():
    model = build(
        dict(IMAGE, weight=1., last_fraction=0.5, crop_size=(2, 3)),
        process=dict(type='RectifiedFlow', end_fraction=0.5))
    inputs = batch(model)
    z0 = model.autoencoder.encode(inputs[0]).mean
    # Off by the column: the mean over any part is that of its columns.
    columns = torch.arange(z0.shape[-1]) / 10
    model.network = Field(lambda zt, t: (zt - z0 - columns) / t.clamp(min=1e-3))
    decode, sizes = model.autoencoder.decode, []
    model.autoencoder.decode = lambda z: sizes.append(z.shape[2:]) or z
    means = {(first + 1) / 10 for first in range(len(columns) - 2)}
    found = {
        round(loss_of(model, *inputs, seed=seed)['loss_one_step_image'].item(), 4)
        for seed in range(40)}
    assert found == {round(mean, 4) for mean in means}
    assert set(sizes) == {(2, 3)}
    model.losses[0].crop_size = (99, 99)
    loss_of(model, *inputs)
    assert sizes[-1] == z0.shape[2:]
    model.autoencoder.decode = decode
    with pytest.raises(ValueError, match=r'two positive .* got \(2, 0\)'):
        build(dict(IMAGE, crop_size=(2, 0)))


def test_the_image_loss_begins_with_its_iteration(monkeypatch):
    model = build(MATCHING, dict(IMAGE, begin=5))
    inputs = batch(model)
    hub = MessageHub.get_current_instance()
    found = []
    for iteration in (4, 5):
        monkeypatch.setitem(hub.runtime_info, 'iter', iteration)
        found.append(loss_of(model, *inputs)['loss_one_step_image'])
    assert found[0] == 0 and found[1] > 0.01
    for loss in found:
        loss.backward()


def test_the_image_loss_of_a_batch_too_small_for_the_end():
    process = dict(type='RectifiedFlow', start_fraction=0.5, end_fraction=0.5)
    model = build(MATCHING, dict(IMAGE, last_fraction=0.5), process=process)
    one = [part[:1] for part in batch(model)]
    assert loss_of(model, *one)['loss_one_step_image'] == 0


ADVERSARIAL = dict(type='LatentAdversarialLoss', latent_channels=12, channels=8)
AT_END = dict(type='RectifiedFlow', start_fraction=0.25, end_fraction=0.25)


@pytest.mark.parametrize('end_only, counted', [(True, slice(3, 4)),
                                               (False, slice(1, 4))])
def test_the_adversarial_loss_is_hinge(end_only, counted):
    model = build(
        MATCHING, dict(ADVERSARIAL, weight=0.3, end_only=end_only),
        process=AT_END)
    images, pseudo_masks, labels = batch(model)
    z0, z1 = model.encode_pair(images, pseudo_masks)
    target = torch.rand_like(z0)
    model.network = Field(lambda zt, t: (zt - target) / t.clamp(min=1e-3))
    model.losses.eval()  # so that the norms are not moved
    losses = loss_of(model, images, pseudo_masks, labels)
    discriminator = model.losses[1].discriminator
    real, fake = (
        [score[counted] for score in discriminator(z, z1)] for z in (z0, target))
    torch.testing.assert_close(
        losses['loss_adversarial'], -0.3 * sum(f.mean() for f in fake))
    torch.testing.assert_close(
        losses['loss_adversarial_discriminator'],
        0.3 * sum((1 - r).clamp(min=0).mean() + (1 + f).clamp(min=0).mean()
                  for r, f in zip(real, fake, strict=True)))


def test_discriminator_and_network_learn_apart():
    model = build(MATCHING, ADVERSARIAL, process=AT_END)
    nn.init.normal_(model.network.unet.conv_out.weight)
    judge, network = model.losses[1].discriminator, model.network
    inputs = batch(model)
    for name, learner, other in (
            ('loss_adversarial', network, judge),
            ('loss_adversarial_discriminator', judge, network)):
        model.zero_grad()
        loss_of(model, *inputs)[name].backward()
        assert all(p.grad is None for p in other.parameters())
        assert sum(p.grad.abs().sum() for p in learner.parameters()
                   if p.grad is not None) > 0


def test_a_learned_discriminator_pulls_towards_true_latents():
    torch.manual_seed(0)
    model = build(MATCHING, dict(ADVERSARIAL, weight=1.), process=AT_END)
    inputs = batch(model)
    z0, z1 = model.encode_pair(*inputs[:2])
    wrong = (3 * torch.randn_like(z0)).requires_grad_()
    model.network = Field(lambda zt, t: (zt - wrong) / t.clamp(min=1e-3))
    optimizer = torch.optim.Adam(model.losses.parameters(), 1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        model.loss(*inputs)['loss_adversarial_discriminator'].backward()
        optimizer.step()
    assert loss_of(model, *inputs)['loss_adversarial_discriminator'] < 1.
    before = loss_of(model, *inputs)['loss_adversarial']
    model.network = Field(lambda zt, t: (zt - z0) / t.clamp(min=1e-3))
    assert loss_of(model, *inputs)['loss_adversarial'] < before - 1


@pytest.mark.parametrize('change, match', [
    (dict(latent_channels=3), 'must be that of the model, 12, but got 3'),
    (dict(), 'end_fraction of the process is 0'),
])
def test_discriminators_that_do_not_fit(change, match):
    process = AT_END if change else dict(type='RectifiedFlow', start_fraction=0.5)
    with pytest.raises(ValueError, match=match):
        build(MATCHING, dict(ADVERSARIAL, **change), process=process)


def test_the_gradient_of_the_repulsion_is_that_of_flowseg():
    model = build(
        MATCHING,
        dict(type='AnchorRepulsionLoss', weight=1., temperature=0.7, epsilon=0.05))
    loss = model.losses[1]
    levels = model.codec.normalize(model.codec.levels.float().view(1, 5, 3, 1))
    anchors = levels[0, :, :, 0]
    x = (torch.rand(1, 3, 1, 1) * 2 - 1).requires_grad_()
    label_map = torch.full((1, 1, 1), 3)
    nn.functional.cross_entropy(loss.logits(model, x), label_map).backward()
    point = x.detach().flatten()
    d = (point - anchors).square().sum(1) + 0.05
    p = (-d.log() / 0.7).softmax(0)
    y = nn.functional.one_hot(torch.tensor(3), 5)
    expected = 2 / 0.7 * ((y - p) / d) @ (point - anchors)
    torch.testing.assert_close(x.grad.flatten(), expected, rtol=1e-4, atol=1e-5)
    inputs = batch(model)
    assert loss_of(model, *inputs)['loss_repulsion'] > 0
