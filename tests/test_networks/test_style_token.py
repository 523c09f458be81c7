"""The style of a picture as a token or beside the time."""

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from bases import parts_of
from mmseg_semflow.networks import StyleToken, VelocityUNet
from mmseg_semflow.networks.style_token import latent_style
from mmseg_semflow.synthesis import Synthesizer
from tiny import UNET, semflow_cfg

TOKEN = dict(type='StyleToken', latent_channels=12, token_channels=16)


def latents(count=8, channels=4, seed=0):
    return torch.randn(
        count, channels, 5, 6, generator=torch.Generator().manual_seed(seed))


def build(**kwargs):
    torch.manual_seed(0)
    return StyleToken(4, 16, **kwargs)


def with_weights(token):
    nn.init.normal_(token.project[-1].weight, std=0.5)
    return token


@pytest.fixture
def semflow():
    """A model that has learned nothing, and seen the styles of six pictures."""
    torch.manual_seed(0)
    semflow = MODELS.build(semflow_cfg(wrappers=[dict(TOKEN, num_alike=6)]))
    nn.init.normal_(semflow.network.unet.conv_out.weight, std=0.3)
    with_weights(semflow.wrappers[0])
    for seed in range(3):
        semflow.wrappers[0].training_condition(
            (1 + seed) * latents(2, 12, seed), latents(2, 12), torch.ones(2))
    return semflow.eval()


def test_style_is_mean_and_deviation_of_every_channel():
    z0 = latents(2, 3)
    style = latent_style(z0)
    for b in range(2):
        for c in range(3):
            values = z0[b, c].flatten()
            torch.testing.assert_close(style[b, c], values.mean())
            torch.testing.assert_close(
                style[b, 3 + c], (values - values.mean()).square().mean().sqrt())


def test_it_begins_as_the_null_token_which_a_zero_prompt_does_not_notice():
    torch.manual_seed(0)
    net = VelocityUNet(UNET, prompt_length=3)
    zt, t = latents(2)[..., :4, :4], torch.rand(2)
    token = build()
    for condition in (None, dict(style=torch.randn(2, 8))):
        torch.testing.assert_close(token(net, zt, t, condition), net(zt, t))


def test_null_tokens_of_a_batch_are_those_of_no_style():
    torch.manual_seed(0)
    net, token = VelocityUNet(UNET, prompt_length=3), with_weights(build())
    zt, t, style = latents(2)[..., :4, :4], torch.rand(2), torch.randn(2, 8)
    found = token(net, zt, t, dict(
        style=style, has_style=torch.tensor([True, False])))
    torch.testing.assert_close(found[0], token(net, zt, t, dict(style=style))[0])
    torch.testing.assert_close(found[1], token(net, zt, t)[1])
    assert not torch.allclose(found[0], token(net, zt, t)[0])


def test_other_conditions_are_passed_on():
    seen = {}

    def network(zt, t, condition):
        seen.update(condition)
        return zt

    prompt = torch.zeros(2, 3, 16)
    build()(network, latents(2), torch.rand(2), dict(prompt=prompt))
    assert seen['prompt'] is prompt and seen['token'].shape == (2, 1, 16)


def test_an_embedding_is_added_to_that_of_time():
    torch.manual_seed(0)
    net = VelocityUNet(dict(UNET, class_embed_type='identity'), prompt_length=1)
    assert net.takes_embedding and net.embedding_channels == 32
    token = with_weights(StyleToken(4, 32, as_embedding=True))
    token.check_network(net)
    zt, t, style = latents(2)[..., :4, :4], torch.rand(2), torch.randn(2, 8)
    plain = VelocityUNet(UNET, prompt_length=1)
    plain.load_state_dict(net.state_dict())
    torch.testing.assert_close(token(net, zt, t), plain(zt, t))
    # And by plain diffusers, as docs/model_converters.md has it.
    by_diffusers = net.unet(
        zt,
        1000 * t,
        net.null_prompt.expand(2, -1, -1),
        class_labels=torch.zeros(2, 32))
    torch.testing.assert_close(by_diffusers.sample, plain(zt, t))
    embedding, moved = plain.unet.time_embedding, token.project(style)
    embedding.register_forward_hook(lambda module, args, output: output + moved)
    found = token(net, zt, t, dict(style=style))
    torch.testing.assert_close(found, plain(zt, t))
    assert not torch.allclose(found, token(net, zt, t))


@pytest.mark.parametrize('channels, unet, as_embedding, message', [
    (8, {}, False, 'token_channels of StyleToken must be 16, as the network has it, '
     'but got 8'),
    (16, dict(class_embed_type='identity'), True,
     'token_channels of StyleToken must be 32, as the network has it, but got 16'),
    (32, {}, True, 'StyleToken with as_embedding needs a VelocityUNet with '
     "class_embed_type='identity', but the network is a VelocityUNet without"),
    (16, 'dit', False, 'StyleToken needs a network with a prompt, but this '
     'VelocityTransformer has none: take StyleToken out of wrappers, or another '
     'network'),
    (32, 'pixart', True, 'StyleToken with as_embedding needs a VelocityUNet with '
     "class_embed_type='identity', but the network is a VelocityTransformer without"),
])
def test_a_network_that_does_not_fit_is_refused(channels, unet, as_embedding, message):
    if isinstance(unet, str):
        network = MODELS.build(parts_of(unet)[0])
    else:
        network = VelocityUNet(dict(UNET, **unet))
    with pytest.raises(ValueError) as error:
        StyleToken(4, channels, as_embedding=as_embedding).check_network(network)
    assert str(error.value) == message


def test_transformers_with_a_prompt_take_the_token():
    network = MODELS.build(parts_of('pixart')[0])
    StyleToken(4, network.null_prompt.shape[-1]).check_network(network)


@pytest.mark.parametrize('as_embedding', [True, False])
def test_checkpoints_of_a_token_and_of_an_embedding_are_told_apart(as_embedding):
    ours, other = StyleToken(4, 16, as_embedding=as_embedding), StyleToken(
        4, 16, as_embedding=not as_embedding)
    ours.load_state_dict(ours.state_dict())
    with pytest.raises(RuntimeError, match='is_embedding'):
        ours.load_state_dict(other.state_dict())


def test_an_embedding_works_in_bfloat16():
    torch.manual_seed(0)
    net = VelocityUNet(dict(UNET, class_embed_type='identity'), prompt_length=1)
    nn.init.normal_(net.unet.conv_out.weight, std=0.3)
    token = with_weights(StyleToken(4, 32, as_embedding=True))
    arguments = net, latents(2)[..., :4, :4], torch.rand(2), dict(
        style=torch.randn(2, 8))
    expected = token(*arguments)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = token(*arguments)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=0.15, rtol=0.05)


@pytest.mark.parametrize('kwargs, dropout', [({}, 0.5), (dict(dropout=0.25), 0.25)])
def test_the_token_is_dropped_for_its_part_and_at_the_start(kwargs, dropout):
    token = build(**kwargs)
    torch.manual_seed(1)
    t = torch.tensor([0.] * 500 + [0.5] * 2000)
    kept = token.training_condition(
        torch.randn(2500, 4, 1, 1), torch.randn(2500, 4, 1, 1), t)['has_style']
    assert not kept[:500].any()
    deviation = (dropout * (1 - dropout) / 2000)**0.5
    assert abs(kept[500:].float().mean() - (1 - dropout)) < 4 * deviation


def test_the_latest_styles_are_remembered_by_training_alone():
    token = build(num_styles=5, num_alike=1)
    batches = [latents(3, seed=seed) for seed in range(4)]
    for z0 in batches:
        token.training_condition(z0, -z0, torch.ones(3))
    assert token.num_seen == 12
    latest = latent_style(torch.cat(batches))[-5:]
    # The last of twelve is at the second of five places.
    torch.testing.assert_close(token.styles, latest.roll(2, 0))
    torch.testing.assert_close(token.masks, -token.styles[:, :4])
    before = token.styles.clone()
    token.eval().training_condition(batches[0], batches[0], torch.ones(3))
    assert token.num_seen == 12 and torch.equal(token.styles, before)


def test_styles_are_drawn_of_pictures_with_masks_alike():
    token = build(num_styles=64, num_alike=4)
    z1 = torch.arange(40.).view(40, 1, 1, 1).expand(-1, 4, 2, 2)
    token.training_condition(latents(40), z1, torch.ones(40))
    generators = [torch.Generator().manual_seed(seed) for seed in range(60)]
    states = [generator.get_state() for generator in generators]
    wanted = torch.full((60, 4, 2, 2), 17.2)
    found = token.sampling_condition(wanted, generators=generators)['style']
    alike = latent_style(latents(40))[[16, 17, 18, 19]]
    places = [(alike == style).all(1).nonzero().item() for style in found]
    assert set(places) == {0, 1, 2, 3}
    # The same for the same seeds, of which the noise still gets all.
    again = token.sampling_condition(wanted, generators=generators)['style']
    assert torch.equal(found, again)
    assert all(torch.equal(generator.get_state(), state) for generator, state in
               zip(generators, states, strict=True))


def test_without_training_there_is_no_style():
    assert build().sampling_condition(latents(2)) == {}


def test_segmentation_knows_no_style(semflow):
    image = torch.rand(1, 3, 24, 32)
    before = semflow.image_to_mask(image, 2)
    semflow.wrappers[0].styles.normal_()
    assert torch.equal(semflow.image_to_mask(image, 2), before)
    assert semflow.stochastic == ('mask_to_image', )


def test_samples_have_the_styles_of_other_pictures(semflow):
    """The perturbation aside, which is switched off here."""
    labels = torch.zeros(24, 32, dtype=torch.long)
    samples = Synthesizer(semflow, 2, num_samples=8, amplitude=0)(labels)
    different = {sample.numpy().tobytes() for sample in samples}
    assert len(different) > 2
    again = Synthesizer(semflow, 2, num_samples=8, amplitude=0)(labels)
    assert torch.equal(samples, again)
    # A given style takes the place of a drawn one.
    mask = semflow.codec.normalize(semflow.codec.encode(labels[None]))
    style = torch.rand(1, 24)
    one, other = (
        semflow.mask_to_image(mask, 2, condition=dict(style=style))
        for _ in range(2))
    assert torch.equal(one, other)


def test_training_reaches_the_token():
    torch.manual_seed(0)
    semflow = MODELS.build(
        semflow_cfg(wrappers=[
            dict(type='EndStdPreconditioning', end_std=(0.5, 1.)),
            dict(TOKEN, dropout=0.)
        ]))
    nn.init.normal_(semflow.network.unet.conv_out.weight, std=0.3)
    losses = semflow.loss(
        torch.rand(2, 3, 24, 32), torch.rand(2, 3, 24, 32),
        torch.zeros(2, 24, 32, dtype=torch.long))
    losses['loss_flow'].backward()
    last = semflow.wrappers[1].project[-1]
    assert last.weight.grad.abs().sum() > 0 and last.bias.grad.abs().sum() > 0
    assert semflow.wrappers[1].num_seen == 2


@pytest.mark.parametrize('kwargs, match', [
    (dict(dropout=1), r'dropout must be in \[0, 1\), but got 1'),
    (dict(num_alike=0), 'got num_alike=0, num_styles=256'),
    (dict(num_styles=8), 'got num_alike=16, num_styles=8'),
])
def test_wrong_arguments(kwargs, match):
    with pytest.raises(ValueError, match=match):
        build(**kwargs)
