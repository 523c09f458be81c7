import copy

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from tiny import VAE, network_cfg, semflow_cfg

KL = dict(type='KLAutoencoder', vae=VAE)
SD = network_cfg(channels=4)


class Field(nn.Module):
    """A known velocity in place of the network."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.calls, self.conditions = [], []

    def forward(self, zt, t, condition=None):
        self.calls.append((zt, t))
        self.conditions.append(condition)
        return self.function(zt, t)


def build(**kwargs):
    return MODELS.build(semflow_cfg(**kwargs))


def batch(model, size=(16, 24)):
    labels = torch.randint(0, 5, (4, *size))
    labels[:, :3, :5] = 255
    levels = model.codec.encode(labels)
    images = torch.rand(4, 3, *size) * 2 - 1
    return images, model.codec.normalize(levels), labels


def test_image_latents_are_sampled_and_mask_latents_are_not():
    model = build(network=SD, autoencoder=KL)
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
    model.network = Field(lambda zt, t: zt)
    images = torch.rand(2, 3, 16, 24)
    masks = model.image_to_mask(images, num_steps=4, solver='rk4')
    torch.testing.assert_close(masks, images * torch.e, rtol=1e-4, atol=0)
    back = model.mask_to_image(masks, num_steps=4, solver='rk4')
    torch.testing.assert_close(back, images, rtol=1e-4, atol=1e-5)
    times = [t[0].item() for _, t in model.network.calls]
    assert times[0] == 0 and times[16] == 1


def test_one_network_call_a_step():
    model = build()
    model.network = Field(lambda zt, t: zt)
    for num_steps in (1, 3, 16):
        model.network.calls.clear()
        model.image_to_mask(torch.rand(1, 3, 8, 8), num_steps)
        assert len(model.network.calls) == num_steps


@pytest.mark.parametrize('size', [(15, 23), (1, 1), (16, 24)])
def test_any_size_is_padded_and_cropped(size):
    model = build()
    model.network = Field(lambda zt, t: torch.zeros_like(zt))
    images = torch.rand(1, 3, *size)
    assert torch.equal(model.image_to_mask(images, 2), images)


def test_sizes_that_do_not_fit_are_an_error_in_training():
    model = build()
    with pytest.raises(ValueError, match='15x24 .* multiples of 2'):
        model.loss(*batch(model, (15, 24)))


def test_inference_is_deterministic():
    model = build(network=SD, autoencoder=KL).eval()
    images = torch.rand(1, 3, 16, 24)
    torch.manual_seed(1)
    first = model.image_to_mask(images, 2)
    torch.manual_seed(2)
    assert torch.equal(model.image_to_mask(images, 2), first)


class Shift(nn.Module):
    """A wrapper of networks."""

    def __init__(self, factor, shift):
        super().__init__()
        self.factor, self.shift = factor, shift

    def forward(self, network, zt, t, condition=None):
        return self.factor * network(zt, t, condition) + self.shift


def test_wrappers_stand_around_the_network_in_their_order():
    model = build()
    model.network = Field(lambda zt, t: zt)
    model.wrappers.extend([Shift(2., 1.), Shift(3., -1.)])
    images, pseudo_masks, labels = batch(model)
    condition = dict(style=torch.rand(1))
    loss = model.loss(images, pseudo_masks, labels, condition)['loss_flow']
    z0, z1 = model.encode_pair(images, pseudo_masks)
    zt, _ = model.network.calls[0]
    torch.testing.assert_close(
        loss, (3 * (2 * zt + 1) - 1 - (z1 - z0)).square().mean())
    # dz/dt = 6 z + 2 by one step of Euler from z0.
    torch.testing.assert_close(
        model.image_to_mask(images, 1, condition=condition), 7 * images + 2)
    assert [c is condition for c in model.network.conditions] == [True, True]


def test_what_wraps_the_network_wraps_its_wrappers():
    model = build()
    model.network = Field(lambda zt, t: zt)
    model.wrappers.append(Shift(2., 1.))
    images = torch.rand(1, 3, 8, 8)
    found = model.image_to_mask(
        images, 1,
        wrap=lambda network: lambda zt, t: 10 * network(zt, t))
    torch.testing.assert_close(found, images + 10 * (2 * images + 1))


def test_a_prompt_is_a_condition():
    model = build(network=SD, autoencoder=KL).eval()
    nn.init.normal_(model.network.unet.conv_out.weight, std=0.3)
    images = torch.rand(1, 3, 16, 24)
    prompt = torch.randn(1, 3, 16)
    told = model.image_to_mask(images, 2, condition=dict(prompt=prompt))
    assert not torch.allclose(told, model.image_to_mask(images, 2))
    model.network.null_prompt.copy_(prompt)
    assert torch.equal(told, model.image_to_mask(images, 2))


def test_gradients_pass_through_a_real_autoencoder():
    """Of both directions by the pixels; training alone does without."""
    model = build(network=SD, autoencoder=KL).eval()
    for move in (model.image_to_mask, model.mask_to_image):
        pixels = torch.rand(1, 3, 16, 24, requires_grad=True)
        move(pixels, 2).sum().backward()
        assert pixels.grad.abs().min() > 0
        assert not any(z.requires_grad for z in model.encode_pair(pixels, pixels))


def test_labels_are_coloured_and_perturbed():
    """Eq. 7 and 14: uniform noise within the amplitude about the colours."""
    model = build()
    labels = torch.randint(0, 5, (4, 64, 64))
    labels[:, :7] = 255
    found = model.perturbed_masks(labels)
    noise = (found + 1) * 127.5 - model.codec.encode(labels)
    assert found.dtype == torch.float32 and 5.99 < noise.abs().max() < 6.001
    for part in (noise[:, :, :7], noise[:, :, 7:]):
        assert part.mean().abs() < 0.1
        assert part.var().item() == pytest.approx(12, rel=0.05)
    valid = labels != 255
    assert torch.equal(model.codec.decode(found)[valid], labels[valid])
    assert not torch.equal(found, model.perturbed_masks(labels))


@pytest.mark.parametrize('option', ['channels_last', 'compile_network'])
def test_faster_layouts_change_no_result_and_no_key(option, monkeypatch):
    monkeypatch.setattr(
        type(build().network), 'compile',
        lambda net: nn.Module.compile(net, backend='eager'))
    # The same draws, in whatever order in memory latents lie.
    monkeypatch.setattr(torch, 'randn_like', lambda x: torch.randn(x.shape))
    # One block: to trace a UNet takes long.
    network = network_cfg(channels=4)
    network['unet'].update(
        block_out_channels=(8, ),
        down_block_types=('CrossAttnDownBlock2D', ),
        mid_block_type=None,
        up_block_types=('UpBlock2D', ))
    parts = dict(autoencoder=KL, network=network)
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
        grad = model.network.unet.conv_in.weight.grad
        torch.testing.assert_close(
            grad, plain.network.unet.conv_in.weight.grad)
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)
    is_last = dict(memory_format=torch.channels_last)
    for net in (fast.network.unet, fast.autoencoder.vae.encoder):
        assert net.conv_in.weight.is_contiguous(**is_last) == (
            option == 'channels_last')
    compiled = fast.network._compiled_call_impl is not None
    assert compiled == (option == 'compile_network')
