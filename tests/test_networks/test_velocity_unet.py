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


def ends(std, count=400000):
    generator = torch.Generator().manual_seed(0)
    z0, z1 = torch.randn(2, count, 1, 1, 1, generator=generator)
    return std[0] * z0, std[1] * z1


class Recorder(torch.nn.Module):
    """Stand for the UNet: keep the input, answer what is asked for."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer
        self.dtype = torch.float32

    def forward(self, z, timestep, prompt, return_dict):
        self.z = z
        return (torch.full_like(z, self.answer), )


@pytest.mark.parametrize('t', [0., 0.13, 0.5, 0.9, 1.])
def test_preconditioning_makes_a_unit_task_of_independent_ends(t):
    """Input and target of the UNet: unit variance, uncorrelated."""
    std = (0.4, 1.1)
    z0, z1 = ends(std)
    times = torch.full((len(z0), ), t)
    zt, velocity = (1 - t) * z0 + t * z1, z1 - z0
    net = build(end_std=std)
    net.unet = Recorder(0.)
    slope_part = net(zt, times)
    assert net.unet.z.std() == pytest.approx(1, abs=0.01)
    net.unet.answer = 1.
    scale = net(zt, times) - slope_part
    target = (velocity - slope_part) / scale
    assert target.std() == pytest.approx(1, abs=0.01)
    assert (target * net.unet.z).mean() == pytest.approx(0, abs=0.01)


def test_preconditioned_unet_predicts_the_other_end():
    z0, z1 = torch.randn(2, 3, 4, 8, 8)
    for t, answer in ((0., 0.3 * z1), (1., -0.3 * z0)):
        net = build(end_std=(1 / 0.3, 1 / 0.3))
        net._apply_unet = lambda z, t, answer=answer: answer
        start = z0 if t == 0 else z1
        torch.testing.assert_close(net(start, torch.full((3, ), t)), z1 - z0)


def test_a_checkpoint_knows_its_preconditioning():
    keys = build(end_std=(0.5, 1)).state_dict().keys()
    assert keys - build().state_dict().keys() == {'end_std'}


@pytest.mark.parametrize('end_std', [(0., 1.), (1., ), (1., 1., 1.), (1., -1.)])
def test_bad_preconditioning(end_std):
    with pytest.raises(ValueError, match='end_std must be two positive numbers'):
        build(end_std=end_std)
