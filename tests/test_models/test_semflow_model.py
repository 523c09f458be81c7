import copy

import pytest
import torch
from mmengine.registry import MODELS
from mmengine.runner.checkpoint import load_state_dict
from torch import nn

from tiny import CODEC, UNET, VAE, semflow_cfg

KL = dict(type='KLAutoencoder', vae=VAE)
SD = dict(type='VelocityUNet', prompt_length=3, unet=UNET)


class Field(nn.Module):
    """A known velocity in place of the network."""

    def __init__(self, function):
        super().__init__()
        self.latent_channels = 12
        self.function = function
        self.calls = []

    def forward(self, zt, t):
        self.calls.append((zt, t))
        return self.function(zt, t)


def build(**kwargs):
    return MODELS.build(semflow_cfg(**kwargs))


def batch(model, size=(16, 24), void=True):
    labels = torch.randint(0, 5, (4, *size))
    if void:
        labels[:, :3, :5] = 255
    levels = model.codec.encode(labels)
    images = torch.rand(4, 3, *size) * 2 - 1
    return images, model.codec.normalize(levels), labels


def test_loss_is_the_mean_square_of_eq_10():
    model = build()
    images, pseudo_masks, labels = batch(model)
    z0 = model.autoencoder.encode(images).mean
    z1 = model.autoencoder.encode(pseudo_masks).mean
    model.velocity_net = Field(lambda zt, t: zt)
    loss = model.loss(images, pseudo_masks, labels)['loss_flow']
    zt, t = model.velocity_net.calls[0]
    s = t.view(-1, 1, 1, 1)
    torch.testing.assert_close(zt, (1 - s) * z0 + s * z1)
    torch.testing.assert_close(loss, ((zt - (z1 - z0))**2).mean())
    assert t.dtype == torch.float32 and len(set(t.tolist())) == 4


def test_the_true_velocity_has_no_loss():
    model = build(one_step_loss=dict(scale=100.))
    images, pseudo_masks, labels = batch(model)
    z0 = model.autoencoder.encode(images).mean
    z1 = model.autoencoder.encode(pseudo_masks).mean
    model.velocity_net = Field(lambda zt, t: z1 - z0)
    losses = model.loss(images, pseudo_masks, labels)
    assert losses['loss_flow'] == 0
    assert losses['loss_one_step'] < 1e-6


def test_void_counts_only_if_asked_to():
    for ignore_void in (False, True):
        model = build(ignore_void=ignore_void)
        images, pseudo_masks, labels = batch(model)
        model.velocity_net = Field(lambda zt, t: torch.zeros_like(zt))
        other = pseudo_masks.clone()
        other[:, :, :3, :5] = 0.7
        torch.manual_seed(1)
        first = model.loss(images, pseudo_masks, labels)['loss_flow']
        torch.manual_seed(1)
        second = model.loss(images, other, labels)['loss_flow']
        # One row of void lies in cells that hold other pixels too.
        other[:, :, 2:4, :6] = pseudo_masks[:, :, 2:4, :6]
        other[:, :, :3, 4:6] = pseudo_masks[:, :, :3, 4:6]
        torch.manual_seed(1)
        inside = model.loss(images, other, labels)['loss_flow']
        assert first != second
        assert (first == inside) == ignore_void


def test_a_batch_of_void_alone_is_finite():
    model = build(ignore_void=True, one_step_loss=dict())
    images, pseudo_masks, labels = batch(model)
    losses = model.loss(images, pseudo_masks, torch.full_like(labels, 255))
    assert losses['loss_flow'] == 0 and losses['loss_one_step'] == 0


def test_one_step_loss_is_cross_entropy_of_the_step_to_the_mask():
    class_weight = [1., 2., 3., 4., 5.]
    model = build(
        start_fraction=0.5,
        one_step_loss=dict(weight=0.3, scale=2., class_weight=class_weight))
    images, pseudo_masks, labels = batch(model)
    target = torch.rand_like(model.autoencoder.encode(images).mean)
    # The field whose step from any point ends in the target.
    model.velocity_net = Field(
        lambda zt, t: (target - zt) / (1 - t).view(-1, 1, 1, 1))
    loss = model.loss(images, pseudo_masks, labels)['loss_one_step']
    t = model.velocity_net.calls[0][1]
    assert (t[:len(t) // 2] == 0).all() and (t[len(t) // 2:] > 0).all()
    logits = model.codec.logits(model.autoencoder.decode(target))
    expected = nn.functional.cross_entropy(
        2 * logits,
        labels,
        weight=torch.tensor(class_weight),
        ignore_index=255)
    torch.testing.assert_close(loss, 0.3 * expected)


@pytest.mark.parametrize('parts', [
    dict(),
    dict(velocity_net=SD, autoencoder=KL),
    dict(velocity_net=SD, autoencoder=KL, one_step_loss=dict()),
])
def test_gradients_reach_the_unet_alone(parts):
    model = build(**parts)
    model.velocity_net.null_prompt.normal_()
    losses = model.loss(*batch(model))
    sum(losses.values()).backward()
    missing = [
        name for name, p in model.velocity_net.named_parameters()
        if p.grad is None or not p.grad.any()
    ]
    # The keys of an attention over equal prompt tokens cannot matter.
    assert all('attn2.to_q' in name or 'attn2.to_k' in name or 'norm2' in name
               for name in missing), missing
    assert all(p.grad is None for p in model.autoencoder.parameters())


def test_image_latents_are_sampled_and_mask_latents_are_not():
    model = build(velocity_net=SD, autoencoder=KL)
    images, pseudo_masks, _ = batch(model)
    first0, first1 = model.encode_pair(images, pseudo_masks)
    second0, second1 = model.encode_pair(images, pseudo_masks)
    assert not torch.equal(first0, second0)
    assert torch.equal(first1, second1)
    torch.testing.assert_close(first1,
                               model.autoencoder.encode(pseudo_masks).mean)


def test_both_directions_invert_each_other_on_a_known_field():
    """On dz/dt = z the reverse flow undoes the forward flow."""
    model = build()
    model.velocity_net = Field(lambda zt, t: zt)
    images = torch.rand(2, 3, 16, 24)
    masks = model.image_to_mask(images, num_steps=4, solver='rk4')
    torch.testing.assert_close(masks, images * torch.e, rtol=1e-4, atol=0)
    back = model.mask_to_image(masks, num_steps=4, solver='rk4')
    torch.testing.assert_close(back, images, rtol=1e-4, atol=1e-5)
    times = [t[0].item() for _, t in model.velocity_net.calls]
    assert times[0] == 0 and times[16] == 1


def test_one_network_call_a_step():
    model = build()
    model.velocity_net = Field(lambda zt, t: zt)
    for num_steps in (1, 3, 16):
        model.velocity_net.calls.clear()
        model.image_to_mask(torch.rand(1, 3, 8, 8), num_steps)
        assert len(model.velocity_net.calls) == num_steps


@pytest.mark.parametrize('size', [(15, 23), (1, 1), (16, 24)])
def test_any_size_is_padded_and_cropped(size):
    model = build()
    model.velocity_net = Field(lambda zt, t: torch.zeros_like(zt))
    images = torch.rand(1, 3, *size)
    assert torch.equal(model.image_to_mask(images, 2), images)


def test_sizes_that_do_not_fit_are_an_error_in_training():
    model = build()
    with pytest.raises(ValueError, match='15x24 .* multiples of 2'):
        model.loss(*batch(model, (15, 24)))


def test_inference_is_deterministic():
    model = build(velocity_net=SD, autoencoder=KL).eval()
    images = torch.rand(1, 3, 16, 24)
    torch.manual_seed(1)
    first = model.image_to_mask(images, 2)
    torch.manual_seed(2)
    assert torch.equal(model.image_to_mask(images, 2), first)


def change(cfg, **kwargs):
    return dict(cfg, **kwargs)


@pytest.mark.parametrize('kwargs, match', [
    (dict(codec=change(CODEC, num_classes=6)),
     r'other anchors .*: shape \(5, 3\), but \(6, 3\)'),
    (dict(codec=change(CODEC, spacing=150)),
     r'\[0.0, 0.0, 200.0\] of class 1, but \[0.0, 0.0, 150.0\]'),
    (dict(codec=change(CODEC, amplitude=3.)), 'other amplitude: 6.0, but 3.0'),
    (dict(codec=change(CODEC, void_color=(90, 90, 90))), 'other void_color'),
    (dict(velocity_net=dict(
        type='VelocityUNet', prompt_length=3,
        unet=dict(UNET, in_channels=12, out_channels=12,
                  block_out_channels=(16, 16)))), 'another architecture'),
    (dict(velocity_net=SD, autoencoder=KL), 'another architecture'),
])
def test_checkpoints_that_do_not_fit_are_refused(kwargs, match):
    state_dict = build().state_dict()
    model = build(**kwargs)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=match):
        load_state_dict(model, state_dict)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_a_foreign_checkpoint_is_refused():
    with pytest.raises(ValueError, match='not a checkpoint of SemFlowModel'):
        load_state_dict(build(), nn.Conv2d(1, 1, 1).state_dict())


def test_a_checkpoint_fits_itself():
    model, other = build(), build()
    load_state_dict(other, model.state_dict(), strict=True)
    for key, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key



def test_class_weights_of_another_number_of_classes():
    with pytest.raises(ValueError, match='num_classes=5 values, but got 2'):
        build(one_step_loss=dict(class_weight=[1, 2]))


def test_whole_numbers_as_class_weights():
    model = build(one_step_loss=dict(class_weight=[1, 2, 3, 4, 5]))
    assert model.loss(*batch(model))['loss_one_step'].isfinite()


def test_channels_that_do_not_fit():
    with pytest.raises(ValueError, match='in_channels .* must be 12, but got 4'):
        build(velocity_net=SD)


@pytest.mark.parametrize('option', ['channels_last', 'compile_network'])
def test_faster_layouts_change_no_result_and_no_key(option, monkeypatch):
    monkeypatch.setattr(
        type(build().velocity_net), 'compile',
        lambda net: nn.Module.compile(net, backend='eager'))
    # The same draws, in whatever order in memory latents lie.
    monkeypatch.setattr(torch, 'randn_like', lambda x: torch.randn(x.shape))
    parts = dict(autoencoder=KL, velocity_net=SD)
    plain, fast = build(**parts), build(**parts, **{option: True})
    assert fast.state_dict().keys() == plain.state_dict().keys()
    fast.load_state_dict(plain.state_dict())
    inputs = batch(plain)
    losses = []
    for model in (plain, fast, copy.deepcopy(fast)):
        torch.manual_seed(1)
        model.zero_grad()
        loss = model.loss(*inputs)['loss_flow']
        loss.backward()
        losses.append(loss.item())
        grad = model.velocity_net.unet.conv_in.weight.grad
        torch.testing.assert_close(
            grad, plain.velocity_net.unet.conv_in.weight.grad)
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)
    is_last = dict(memory_format=torch.channels_last)
    for net in (fast.velocity_net.unet, fast.autoencoder.vae.encoder):
        assert net.conv_in.weight.is_contiguous(**is_last) == (
            option == 'channels_last')
    compiled = fast.velocity_net._compiled_call_impl is not None
    assert compiled == (option == 'compile_network')
