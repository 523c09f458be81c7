import pytest
import torch
from mmengine.registry import MODELS

from tiny import UNET


def build(**kwargs):
    return MODELS.build(dict(type='VelocityUNet', unet=UNET, **kwargs)).eval()


def test_the_unet_gets_a_thousand_t_and_the_null_prompt():
    net = build(prompt_length=3)
    net.null_prompt.normal_()
    zt, t = torch.randn(2, 4, 8, 8), torch.tensor([0., 0.123])
    expected = net.unet(zt, torch.tensor([0., 123.]),
                        net.null_prompt.expand(2, -1, -1)).sample
    torch.testing.assert_close(net(zt, t), expected)


def test_time_is_not_rounded_under_autocast():
    net = build()
    seen = []
    net.unet.time_proj.register_forward_pre_hook(
        lambda module, args: seen.append(args[0]))
    t = torch.tensor([0.998, 0.999])
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out = net(torch.randn(2, 4, 8, 8), t)
    assert out.dtype == torch.float32
    assert seen[0].dtype == torch.float32
    torch.testing.assert_close(seen[0], 1000 * t)


def test_bfloat16_weights():
    net = build()
    zt, t = torch.randn(1, 4, 8, 8), torch.tensor([0.5])
    expected = net(zt, t)
    found = net.bfloat16()(zt, t)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0.05)


@pytest.mark.parametrize('size', [(8, 8), (5, 7), (8, 15)])
def test_odd_latents(size):
    assert build()(torch.randn(1, 4, *size), torch.rand(1)).shape[-2:] == size


def test_gradient_checkpointing_changes_no_gradient():
    zt, t = torch.randn(2, 4, 8, 8), torch.rand(2)
    grads = []
    for flag in (False, True):
        torch.manual_seed(0)
        net = build(gradient_checkpointing=flag).train()
        net(zt, t).square().mean().backward()
        grads.append([p.grad for p in net.parameters()])
    torch.testing.assert_close(grads[0], grads[1])


def test_a_prompt_takes_the_place_of_the_null_prompt():
    net = build(prompt_length=3)
    zt, t = torch.randn(2, 4, 8, 8), torch.rand(2)
    for length in (3, 5):
        prompt = torch.randn(2, length, 16)
        expected = net.unet(zt, 1000 * t, prompt).sample
        torch.testing.assert_close(net(zt, t, dict(prompt=prompt)), expected)
        assert not torch.allclose(net(zt, t), expected)
    # One prompt serves the whole batch.
    torch.testing.assert_close(
        net(zt, t, dict(prompt=prompt[:1])),
        net(zt, t, dict(prompt=prompt[:1].expand(2, -1, -1))))
    assert torch.equal(net(zt, t, {}), net(zt, t))


def test_samples_without_a_prompt_get_the_null_prompt():
    net = build(prompt_length=3)
    net.null_prompt.normal_()
    zt, t, prompt = torch.randn(2, 4, 8, 8), torch.rand(2), torch.randn(2, 3, 16)
    found = net(zt, t, dict(prompt=prompt, has_prompt=torch.tensor([True, False])))
    torch.testing.assert_close(found[0], net(zt, t, dict(prompt=prompt))[0])
    torch.testing.assert_close(found[1], net(zt, t)[1])


def test_gradients_reach_the_prompt():
    prompt = torch.randn(2, 3, 16, requires_grad=True)
    net = build()
    net(torch.randn(2, 4, 8, 8), torch.rand(2),
        dict(prompt=prompt)).sum().backward()
    assert prompt.grad.flatten(1).any(1).all()


def test_unknown_conditions():
    for key in ('style', 'embedding'):
        with pytest.raises(ValueError) as error:
            build()(torch.randn(1, 4, 8, 8), torch.rand(1), {
                'prompt': torch.zeros(1, 3, 16),
                key: torch.zeros(1)
            })
        assert str(error.value) == (
            "the condition of a VelocityUNet has the keys 'prompt', 'has_prompt' and "
            "'token', and with class_embed_type='identity' 'embedding', but got "
            f'{key!r}')
