"""Low-rank adapters: what they change, what they keep, and whose they are."""

import shutil
import sys
from functools import cache

import pytest
import torch
from diffusers import UNet2DConditionModel
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import Runner
from mmengine.runner.checkpoint import get_state_dict
from torch import nn

from bases import network_of, parts_of, write_base
from mmseg_semflow.apis.checkpoint_conversion import (
    checkpoint_to_folder,
    folder_to_checkpoint,
)
from mmseg_semflow.apis.loading import load_weights
from mmseg_semflow.export.pipeline import SemFlowPipeline
from mmseg_semflow.networks.pretrained import headers_alone
from mmseg_semflow.safe_loading import load_from_local
from runs import quick_cfg
from tiny import META, TEST_PIPELINE, UNET, segmentor_cfg

pytest.importorskip('peft')
LORA = dict(rank=2, alpha=3., targets=['to_q', 'to_out.0', 'conv1'])
CHANNELS = dict(in_channels=12, out_channels=12)


@pytest.fixture(scope='module')
def bases(tmp_path_factory):
    """Files of two UNets."""
    folder = tmp_path_factory.mktemp('bases')
    paths = [folder / name for name in ('source.pth', 'original.pth')]
    for seed, path in enumerate(paths):
        torch.manual_seed(seed)
        torch.save(
            UNet2DConditionModel(**{**UNET, **CHANNELS}).state_dict(), path)
    return list(map(str, paths))


def network_cfg(base, lora=None, **kwargs):
    return dict(
        type='VelocityUNet',
        unet={**UNET, **CHANNELS},
        prompt_length=3,
        unet_weights=base,
        lora=lora,
        **kwargs)


def build(base, lora=None, seed=0, init=True, **kwargs):
    """A network; its adapter random where it has one."""
    torch.manual_seed(seed)
    net = MODELS.build(network_cfg(base, lora, **kwargs)).eval()
    if init:
        net.init_weights()
    return net


def randomize(net):
    for name, weight in net.unet.named_parameters():
        if '.lora_' in name:
            nn.init.normal_(weight, std=0.2)
    return net


def outputs(net):
    generator = torch.Generator().manual_seed(1)
    zt = torch.randn(2, 12, 8, 8, generator=generator)
    with torch.no_grad():
        return net(zt, torch.tensor([0.2, 0.9]))


def changed_by_hand(net, base, scale):
    """The weights W + scale B A of another base, by matrix products."""
    weights = torch.load(base)
    adapter = net.unet.state_dict()
    for key in adapter:
        if not key.endswith('.lora_A.default.weight'):
            continue
        layer = key.removesuffix('.lora_A.default.weight')
        a, b = adapter[key], adapter[f'{layer}.lora_B.default.weight']
        weight = weights[f'{layer}.weight']
        delta = b.flatten(1) @ a.flatten(1)
        weights[f'{layer}.weight'] = weight + scale * delta.view_as(weight)
    return weights


def test_it_begins_as_its_base(bases):
    torch.testing.assert_close(
        outputs(build(bases[0], LORA)), outputs(build(bases[0])))


def test_gradients_reach_adapters_alone(bases):
    net = randomize(build(bases[0], LORA)).train()
    net(torch.randn(2, 12, 8, 8), torch.rand(2)).square().mean().backward()
    names = {name for name, weight in net.named_parameters() if weight.grad is not None}
    assert names and all('.lora_' in name for name in names)
    assert names == {
        name for name, weight in net.named_parameters() if weight.requires_grad
    }
    layers = {name.rsplit('.lora_')[0].rsplit('.', 1)[-1] for name in names}
    assert layers == {'to_q', '0', 'conv1'}
    # r (in + out) weights for a matrix of in x out.
    to_q = net.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1.to_q
    assert sum(w.numel() for w in to_q.parameters() if w.requires_grad) == 2 * 16


def test_all_attentions_are_the_default(bases):
    net = build(bases[0], dict(rank=1))
    names = [name for name, weight in net.named_parameters() if weight.requires_grad]
    assert {name.split('.lora_')[0].split('.attn')[-1] for name in names} == {
        f'{number}.{layer}' for number in (1, 2)
        for layer in ('to_q', 'to_k', 'to_v', 'to_out.0')
    }
    assert net.lora.scale == 1


@pytest.mark.parametrize('collect', [nn.Module.state_dict, get_state_dict])
def test_a_checkpoint_holds_the_adapter_alone(bases, collect):
    net = randomize(build(bases[0], LORA))
    state_dict = collect(net, prefix='net.')
    for key in state_dict:
        assert '.lora_' in key or key in {
            'net.null_prompt', 'net.lora.base', 'net.lora.scale'}
    assert len(state_dict) > 10


@pytest.fixture
def checkpoint(bases, tmp_path):
    """A checkpoint of an adapter upon the first base, and what it computes."""
    segmentor = MODELS.build(segmentor_cfg(network=network_cfg(bases[0], LORA)))
    segmentor.semflow.network.init_weights()
    net = randomize(segmentor.semflow.network).eval()
    path = tmp_path / 'iter_1.pth'
    torch.save(dict(state_dict=get_state_dict(segmentor)), path)
    return path, net


def load(checkpoint, network):
    segmentor = MODELS.build(segmentor_cfg(network=network))
    load_weights(segmentor, checkpoint)
    return segmentor.semflow.network.eval()


def test_loading_finds_the_base(bases, checkpoint, capfd):
    path, net = checkpoint
    found = load(path, network_cfg(bases[0], LORA))
    torch.testing.assert_close(outputs(found), outputs(net))
    # Nor does mmengine say that something is missing.
    assert 'missing' not in ''.join(capfd.readouterr())
    strict = MODELS.build(segmentor_cfg(network=network_cfg(bases[0], LORA)))
    load_weights(strict, path, strict=True)
    torch.testing.assert_close(outputs(strict.semflow.network.eval()), outputs(net))


def test_a_base_in_half_the_bytes_is_the_same(bases, checkpoint, tmp_path):
    path, _ = checkpoint
    half = {key: value.bfloat16() for key, value in torch.load(bases[0]).items()}
    torch.save(half, tmp_path / 'half.pth')
    load(path, network_cfg(str(tmp_path / 'half.pth'), LORA))


def test_another_base_is_refused_by_the_names_of_both(bases, checkpoint):
    path, _ = checkpoint
    with pytest.raises(
            ValueError,
            match=r'trained upon .*source.pth \(SHA-256 [0-9a-f]{16}\.\.\.\), but the '
            r'base of this config is .*original.pth \(.* lora.swap=True'):
        load(path, network_cfg(bases[1], LORA))


def test_swapped_it_changes_the_other_base_in_the_same_way(bases, checkpoint):
    path, net = checkpoint
    swapped = load(path, network_cfg(bases[1], dict(LORA, swap=True)))
    expected = build(bases[1])
    expected.unet.load_state_dict(changed_by_hand(net, bases[1], 3 / 2))
    torch.testing.assert_close(outputs(swapped), outputs(expected))
    assert not torch.allclose(outputs(swapped), outputs(net))
    # What is saved now belongs to the other base.
    assert torch.equal(swapped.lora.base, build(bases[1], LORA).lora.base)


def test_swapped_without_a_change_it_is_the_other_base(bases, tmp_path):
    plain = MODELS.build(segmentor_cfg(network=network_cfg(bases[0], LORA)))
    plain.semflow.network.init_weights()
    torch.save(dict(state_dict=plain.state_dict()), tmp_path / 'zero.pth')
    swapped = load(tmp_path / 'zero.pth',
                   network_cfg(bases[1], dict(LORA, swap=True)))
    torch.testing.assert_close(outputs(swapped), outputs(build(bases[1])))


def test_swap_upon_the_same_base_changes_nothing(bases, checkpoint):
    path, net = checkpoint
    same = load(path, network_cfg(bases[0], dict(LORA, swap=True)))
    torch.testing.assert_close(outputs(same), outputs(net))


def test_merged_it_is_a_whole_network(bases, checkpoint, tmp_path):
    path, net = checkpoint
    expected = changed_by_hand(net, bases[0], 3 / 2)
    before = outputs(net)
    net.merge_lora()
    torch.testing.assert_close(outputs(net), before)
    torch.testing.assert_close(dict(net.unet.state_dict()), dict(expected))
    assert all(weight.requires_grad for weight in net.unet.parameters())
    torch.save(net.unet.state_dict(), tmp_path / 'merged.pth')
    torch.testing.assert_close(
        outputs(build(str(tmp_path / 'merged.pth'))), before)


def test_converters_make_a_whole_checkpoint(bases, checkpoint, tmp_path):
    path, net = checkpoint

    def config(lora):
        return Config(dict(
            model=segmentor_cfg(network=network_cfg(bases[0], lora)),
            test_pipeline=TEST_PIPELINE,
            test_dataloader=dict(
                dataset=dict(type='BaseSegDataset', metainfo=META))))

    folder = tmp_path / 'folder'
    checkpoint_to_folder(config(LORA), path, folder)
    unet = UNet2DConditionModel.from_pretrained(folder / 'unet')
    torch.testing.assert_close(
        dict(unet.state_dict()), dict(changed_by_hand(net, bases[0], 3 / 2)))
    pipe = SemFlowPipeline.from_pretrained(folder)
    torch.testing.assert_close(outputs(pipe.semflow.network), outputs(net))
    folder_to_checkpoint(config(None), folder, tmp_path / 'whole.pth')
    found = load(tmp_path / 'whole.pth', network_cfg(None))
    torch.testing.assert_close(outputs(found), outputs(net))


def test_an_adapter_is_no_base(bases, checkpoint):
    path, _ = checkpoint
    with pytest.raises(ValueError, match=r'iter_1.pth holds an adapter and not'):
        build(str(path))


def test_whole_weights_are_no_adapter(bases, tmp_path):
    whole = MODELS.build(segmentor_cfg(network=network_cfg(bases[0])))
    torch.save(dict(state_dict=whole.state_dict()), tmp_path / 'whole.pth')
    with pytest.raises(ValueError, match='another architecture'):
        load(tmp_path / 'whole.pth', network_cfg(bases[0], LORA))
    net = build(bases[0], LORA)
    with pytest.raises(ValueError, match='of an adapter: it has no lora.base'):
        net.load_state_dict(build(bases[0]).state_dict(), strict=False)


def test_another_factor_is_refused(bases, checkpoint):
    path, _ = checkpoint
    with pytest.raises(ValueError, match=r'lora.rank = 1.5, but this config has 2.5'):
        load(path, network_cfg(bases[0], dict(LORA, alpha=5)))


def test_without_a_base_there_is_nothing_to_change(checkpoint):
    path, _ = checkpoint
    net = build(None, LORA, init=False)
    with pytest.raises(ValueError, match='sd_folder .* or unet_weights of a UNet, but'):
        net.init_weights()
    with pytest.raises(ValueError, match='but got neither'):
        load(path, network_cfg(None, LORA))


def test_a_base_that_is_gone_is_named(checkpoint, tmp_path):
    path, _ = checkpoint
    with pytest.raises(FileNotFoundError, match='gone.pth is not a file of weights'):
        load(path, network_cfg(str(tmp_path / 'gone.pth'), LORA))


def test_weights_are_checked_without_data(bases):
    with headers_alone():
        build(bases[0], LORA)


def test_interrupted_it_ends_like_a_training_that_was_not(
        bases, shared_street, tmp_path):
    def train(name, max_iters, resume=False):
        cfg = quick_cfg(
            shared_street, tmp_path / name, max_iters,
            **{'model': segmentor_cfg(network=network_cfg(bases[0], LORA)),
               'custom_hooks': [
                   dict(
                       type='EMAHook', ema_type='MomentumAnnealingEMA', momentum=0.1,
                       gamma=3, priority='ABOVE_NORMAL')
               ],
               'train_cfg.type': 'ResumableTrainLoop',
               'default_hooks.checkpoint.interval': 2})
        cfg.resume = resume
        Runner.from_cfg(cfg).train()
        return load_from_local(str(tmp_path / name / f'iter_{max_iters}.pth'))

    whole = train('whole', 4)
    train('parts', 2)
    parts = train('parts', 4, resume=True)
    first = load_from_local(str(tmp_path / 'parts/iter_2.pth'))
    moved = 0
    for key, value in whole['state_dict'].items():
        assert torch.equal(value, parts['state_dict'][key]), key
        assert torch.equal(
            whole['ema_state_dict'][f'module.{key}'],
            parts['ema_state_dict'][f'module.{key}']), key
        moved += not torch.equal(value, first['state_dict'][key])
    assert moved > 4
    names = [key for key in whole['state_dict'] if '.lora_' in key]
    assert len(whole['optimizer']['state']) == len(names)


def test_peft_is_an_extra(bases, monkeypatch):
    monkeypatch.setitem(sys.modules, 'peft', None)
    with pytest.raises(ImportError, match=r"pip install 'mmseg_semflow\[lora\]'"):
        build(bases[0], LORA)


@pytest.mark.parametrize('lora, match', [
    (dict(rank=0), 'lora.rank must be an integer >= 1, but got 0'),
    (dict(rank=1.5), 'lora.rank must be an integer >= 1, but got 1.5'),
    (dict(rank=2, alpha=0), 'lora.alpha must be > 0, but got 0'),
    (dict(rank=2, targets='to_q'), "list of ends of names of layers, but got 'to_q'"),
    (dict(rank=2, targets=[]), r'list of ends of names of layers, but got \[\]'),
    (dict(rank=2, targets=['to_q', 'to_z']), "but got 'to_z'; there is for example"),
    (dict(rank=2, targets=['norm1']), "but got 'norm1'"),
])
def test_wrong_arguments(bases, lora, match):
    with pytest.raises(ValueError, match=match):
        build(bases[0], lora)


def test_layers_and_lists_of_one_name():
    """FLUX.2's blocks of two streams have a list of the name, those of one a layer."""
    net = MODELS.build(parts_of('flux2')[0] | dict(
        lora=dict(rank=2, targets=['to_out'])))
    changed = {key.split('.lora_')[0] for key in net.state_dict() if '.lora_' in key}
    assert changed and all('single_' in key and key.endswith('to_out')
                           for key in changed)


def test_layers_that_peft_refuses():
    with pytest.raises(ValueError, match=r"lora.targets, \['conv_depth'\]: "):
        MODELS.build(parts_of('sana')[0] | dict(
            lora=dict(rank=3, targets=['conv_depth'])))


TRANSFORMERS = ['sd3', 'flux', 'flux2', 'sana']
FLUX_LORA = dict(rank=2, alpha=3.)


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """Give the folder of a base by its name."""
    root = tmp_path_factory.mktemp('folders')

    @cache
    def write(name):
        write_base(name, root)
        return root / name

    return write


def transformer(name, folder, lora=FLUX_LORA, init=True, **kwargs):
    net = MODELS.build(parts_of(name, folder, lora=lora, **kwargs)[0]).eval()
    if init:
        net.init_weights()
    return net


def velocity(net):
    generator = torch.Generator().manual_seed(1)
    zt = torch.randn(2, net.in_channels, 8, 12, generator=generator)
    return net(zt, torch.tensor([0.2, 0.9]))


@pytest.mark.parametrize('name', TRANSFORMERS)
def test_an_adapter_of_a_transformer(name, folders):
    """It begins as the base, is trained alone, and is found again upon its folder."""
    folder = folders(name)
    net = transformer(name, folder)
    plain = transformer(name, folder, None)
    torch.testing.assert_close(velocity(net), velocity(plain))
    for key, weight in net.transformer.named_parameters():
        if '.lora_' in key:
            nn.init.normal_(weight, std=0.2)
    assert not torch.allclose(velocity(net), velocity(plain), atol=1e-3)
    assert net.lora.scale == 1.5 and net.base != '00' * 8

    grads = []
    for flag in (False, True):
        if flag:
            net.transformer.enable_gradient_checkpointing()
        net.train().zero_grad()
        velocity(net).square().mean().backward()
        grads.append({key: weight.grad for key, weight in net.named_parameters()
                      if weight.grad is not None})
    assert grads[0] and all('.lora_' in key for key in grads[0])
    assert grads[0].keys() == {
        key for key, weight in net.named_parameters() if weight.requires_grad}
    torch.testing.assert_close(*grads)
    net.eval()

    found = net.state_dict()
    assert all('.lora_' in key or '.' not in key or key.startswith('lora.')
               for key in found)
    again = transformer(name, folder, init=False)
    again.load_state_dict(found)
    torch.testing.assert_close(velocity(again), velocity(net))
    torch.testing.assert_close(again.null_prompt, net.null_prompt)
    assert again.null_prompt.any()
    before = velocity(net)
    net.merge_lora()
    torch.testing.assert_close(velocity(net), before)
    assert net.state_dict().keys() == plain.state_dict().keys()
    with headers_alone():
        transformer(name, folder)


def test_an_adapter_of_a_transformer_upon_another_base(folders, tmp_path):
    found = transformer('flux', folders('flux')).state_dict()
    folder = shutil.copytree(folders('flux'), tmp_path / 'other')
    torch.manual_seed(1)
    network_of('flux').save_pretrained(folder / 'transformer')
    with pytest.raises(ValueError, match=r'trained upon .*flux/transformer .FLUX.1. '
                       r'.*this config is .*other/transformer .FLUX.1. '):
        transformer('flux', folder, init=False).load_state_dict(found)
    with pytest.raises(ValueError, match='sd_folder of the network, .* got neither'):
        transformer('flux', None).load_state_dict(found)


def test_a_folder_of_a_merged_transformer(folders, tmp_path):
    network, autoencoder = parts_of('flux', folders('flux'), lora=FLUX_LORA)
    cfg = Config(dict(
        model=segmentor_cfg(network=network, autoencoder=autoencoder),
        test_pipeline=TEST_PIPELINE,
        test_dataloader=dict(dataset=dict(type='BaseSegDataset', metainfo=META))))
    model = MODELS.build(cfg.model)
    model.semflow.network.init_weights()
    for key, weight in model.named_parameters():
        if '.lora_' in key:
            nn.init.normal_(weight, std=0.2)
    torch.save(dict(state_dict=get_state_dict(model)), tmp_path / 'iter_1.pth')
    checkpoint_to_folder(cfg, tmp_path / 'iter_1.pth', tmp_path / 'folder')
    pipe = SemFlowPipeline.from_pretrained(tmp_path / 'folder')
    torch.testing.assert_close(
        velocity(pipe.semflow.network), velocity(model.semflow.network.eval()))


@pytest.mark.parametrize('name', ['pixart', 'dit'])
def test_transformers_of_which_diffusers_has_no_adapters(name):
    with pytest.raises(ValueError, match='no adapters of .*Transformer2DModel: leave'):
        transformer(name, None, init=False)
