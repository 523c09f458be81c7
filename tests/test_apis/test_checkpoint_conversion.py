"""Checkpoints of ours to and from other formats, in the real formats."""

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from mmengine.hooks import Hook
from mmengine.registry import MODELS
from mmengine.runner import Runner
from mmseg.utils.tokenizer import SimpleTokenizer
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTokenizer

from bases import parts_of
from mmseg_semflow.apis import checkpoint_conversion as conversion
from mmseg_semflow.apis import load_model
from tiny import (
    CODEC,
    META,
    UNET,
    VAE,
    network_cfg,
    runner_cfg,
    save_old_checkpoint,
    segmentor_cfg,
    write_sd_folder,
)

NETWORKS = dict(
    network=dict(type='VelocityUNet', unet=UNET),
    autoencoder=dict(type='KLAutoencoder', vae=VAE))
PATCHES = dict(
    network=network_cfg(),
    autoencoder=dict(type='PatchAutoencoder', factor=2))


def model_cfg(**kwargs):
    return segmentor_cfg(**NETWORKS | kwargs)


def config_of(**kwargs):
    return runner_cfg('street', 'work', model=model_cfg(**kwargs))


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    """The file of the config without arguments."""
    path = tmp_path_factory.mktemp('config') / 'config.py'
    config_of().dump(path)
    return path


def write_checkpoint(path, **kwargs):
    """Write random weights of several dtypes and memory layouts."""
    model = MODELS.build(model_cfg(**kwargs))
    semflow = model.semflow
    nn.init.normal_(semflow.network.null_prompt)
    semflow.network.unet.to(
        torch.bfloat16, memory_format=torch.channels_last)
    if hasattr(semflow.autoencoder, 'vae'):
        semflow.autoencoder.vae.decoder.half()
    torch.save(dict(state_dict=model.state_dict(), iter=8), path)
    return model.state_dict()


def check_same(found, expected):
    assert found.keys() == expected.keys()
    for key, value in found.items():
        assert value.dtype == expected[key].dtype, key
        assert torch.equal(value, expected[key]), key


@pytest.fixture
def run(call_tool):
    return lambda tool, *args, **kwargs: call_tool(
        f'model_converters/{tool}.py', *args, **kwargs)


@pytest.mark.parametrize('kwargs', [
    {},
    dict(
        process=dict(type='Diffusion'),
        network=dict(type='VelocityUNet', unet=dict(UNET, in_channels=8))),
    dict(
        PATCHES,
        wrappers=[dict(type='EndStdPreconditioning', end_std=(0.5, 1.))])
], ids=['semflow', 'dsm', 'patches'])
def test_round_trip_is_exact(tmp_path, kwargs):
    cfg = config_of(**kwargs)
    expected = write_checkpoint(tmp_path / 'iter_8.pth', **kwargs)
    folder, back = tmp_path / 'folder', tmp_path / 'back.pth'
    conversion.checkpoint_to_folder(cfg, tmp_path / 'iter_8.pth', folder)
    conversion.folder_to_checkpoint(cfg, folder, back)
    checkpoint = torch.load(back, weights_only=True)
    check_same(checkpoint['state_dict'], expected)
    model = MODELS.build(model_cfg(**kwargs))
    model.load_state_dict(checkpoint['state_dict'], strict=True)
    assert load_model(cfg, back, 'cpu').dataset_meta == META
    # And the folder again from there.
    conversion.checkpoint_to_folder(cfg, back, tmp_path / 'again')
    for file in folder.rglob('*.safetensors'):
        check_same(
            load_file(tmp_path / 'again' / file.relative_to(folder)),
            load_file(file))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        'again', 'back.pth', 'folder', 'iter_8.pth'
    ]


def test_a_checkpoint_of_the_first_version(tmp_path):
    """It gets today's names on the way."""
    cfg = runner_cfg('street', 'work')
    cfg.model.semflow = save_old_checkpoint(tmp_path / 'old.pth')
    conversion.checkpoint_to_folder(cfg, tmp_path / 'old.pth', tmp_path / 'folder')
    conversion.folder_to_checkpoint(cfg, tmp_path / 'folder', tmp_path / 'new.pth')
    expected = load_model(cfg, tmp_path / 'old.pth', 'cpu').state_dict()
    found = torch.load(tmp_path / 'new.pth', weights_only=True)['state_dict']
    check_same(found, dict(expected))


def test_a_folder_of_the_first_version(config, tmp_path):
    expected = write_checkpoint(tmp_path / 'iter_8.pth')
    conversion.checkpoint_to_folder(
        config, tmp_path / 'iter_8.pth', tmp_path / 'folder')
    path = tmp_path / 'folder/semflow.safetensors'
    rest = load_file(path)
    rest['velocity_net.null_prompt'] = rest.pop('network.null_prompt')
    save_file(rest, path)
    conversion.folder_to_checkpoint(
        config, tmp_path / 'folder', tmp_path / 'back.pth')
    check_same(
        torch.load(tmp_path / 'back.pth', weights_only=True)['state_dict'],
        expected)


def test_plain_diffusers_loads_the_folder(config, tmp_path):
    torch.save(
        dict(state_dict=MODELS.build(model_cfg()).state_dict()),
        tmp_path / 'iter_8.pth')
    model = load_model(config, tmp_path / 'iter_8.pth', 'cpu').semflow
    conversion.checkpoint_to_folder(
        config, tmp_path / 'iter_8.pth', tmp_path / 'folder')
    unet = UNet2DConditionModel.from_pretrained(
        tmp_path / 'folder', subfolder='unet')
    vae = AutoencoderKL.from_pretrained(tmp_path / 'folder', subfolder='vae')
    rest = load_file(tmp_path / 'folder/semflow.safetensors')
    assert rest.keys() == {
        'network.null_prompt', 'codec.levels', 'codec.void_level',
        'codec.noise_level'
    }
    z, t = torch.randn(2, 4, 8, 8), torch.tensor([0.25, 1.])
    prompt = rest['network.null_prompt'].expand(2, -1, -1)
    with torch.no_grad():
        expected = model.network(z, t)
        assert torch.equal(unet(z, 1000 * t, prompt).sample, expected)
        torch.testing.assert_close(
            vae.decode(z / vae.config.scaling_factor).sample,
            model.autoencoder.decode(z))


def test_the_weights_are_those_of_testing(street, tmp_path):
    """The averaged ones: EMAHook writes them as the state_dict."""
    cfg = runner_cfg(
        street, tmp_path / 'work', model=segmentor_cfg(), max_iters=2)
    cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.5))
    cfg.train_cfg.val_interval = 3
    runner = Runner.from_cfg(cfg.copy())
    runner.train()
    last = runner.model.semflow.network.unet.state_dict()
    checkpoint = tmp_path / 'work/iter_2.pth'

    class Listen(Hook):

        def before_test_iter(self, runner, *args, **kwargs):
            unet = runner.model.semflow.network.unet
            tested.update({k: v.clone() for k, v in unet.state_dict().items()})

    tested = {}
    cfg.merge_from_dict(
        dict(load_from=str(checkpoint), experiment_name='tested'))
    runner = Runner.from_cfg(cfg)
    runner.register_hook(Listen())
    runner.test()
    conversion.checkpoint_to_folder(cfg, checkpoint, tmp_path / 'folder')
    unet = UNet2DConditionModel.from_pretrained(tmp_path / 'folder/unet')
    check_same(unet.state_dict(), tested)
    key = 'conv_in.weight'
    assert not torch.equal(tested[key], last[key])


def test_the_released_unet(config, tmp_path, run):
    unet = UNet2DConditionModel(**UNET)
    torch.save(unet.state_dict(), tmp_path / 'face.pt')
    sd_folder = write_sd_folder(tmp_path / 'sd')
    out = tmp_path / 'out/face.pth'
    done = run('released2semflow', config, tmp_path / 'face.pt', out,
               '--sd-folder', sd_folder, '--amplitude', 6)
    assert f'wrote {out}' in done
    model = MODELS.build(model_cfg())
    checkpoint = torch.load(out, weights_only=True)
    model.load_state_dict(checkpoint['state_dict'], strict=True)
    check_same(model.semflow.network.unet.state_dict(), unet.state_dict())
    check_same(
        model.semflow.autoencoder.vae.state_dict(),
        AutoencoderKL.from_pretrained(sd_folder / 'vae').state_dict())
    assert model.semflow.network.null_prompt.any()
    assert checkpoint['meta']['dataset_meta'] == META
    # Another codec than the config's is refused, as for any checkpoint.
    other = dict(CODEC, amplitude=7)
    with pytest.raises(ValueError, match='codec with other amplitude'):
        MODELS.build(model_cfg(codec=other)).load_state_dict(
            checkpoint['state_dict'])


def test_the_released_unet_needs_a_folder(config, tmp_path):
    with pytest.raises(ValueError, match='config.py has no sd_folder'):
        conversion.released_to_checkpoint(
            config, 'face.pt', tmp_path / 'out', amplitude=6)
    with pytest.raises(ValueError, match="needs .*type='KLAutoencoder'.* the config"):
        conversion.released_to_checkpoint(
            config_of(**PATCHES), 'face.pt', tmp_path / 'out')


@pytest.mark.parametrize('convert', [
    conversion.released_to_checkpoint, conversion.stable_diffusion_to_folder])
def test_weights_of_stable_diffusion_need_a_unet(convert, tmp_path):
    network, autoencoder = parts_of('sd3')
    cfg = config_of(network=network, autoencoder=autoencoder)
    with pytest.raises(
            ValueError, match="network.type='VelocityUNet'.*has 'VelocityTransformer'"):
        convert(cfg, 'face.pt', tmp_path / 'out')


def test_the_tokenizer_is_clips(tmp_path, monkeypatch):
    """As mmsegmentation's own, for any text."""
    given = {}
    monkeypatch.setattr(
        conversion, 'single_file_to_folder',
        lambda path, folder, **kwargs: given.update(kwargs) or folder.mkdir())
    conversion.stable_diffusion_to_folder(
        config_of(), 'w.ckpt', tmp_path / 'sd')
    from mmseg_semflow.networks.diffusers_folder import _tokenizer
    tokenizer = _tokenizer(
        tmp_path / 'tokenizer', given['vocabulary'], given['merges'])
    assert isinstance(tokenizer, CLIPTokenizer) and len(tokenizer) == 49408
    assert tokenizer('').input_ids == [49406, 49407]
    text = "A photo of 2 cats, isn't it? Zürich's trams"
    assert tokenizer(text).input_ids[1:-1] == SimpleTokenizer().encode(text)


def test_tools_refuse_what_is_there(config, tmp_path, run):
    checkpoint, out, back = (
        tmp_path / name for name in ('iter_8.pth', 'out', 'back.pth'))
    expected = write_checkpoint(checkpoint)
    mine = tmp_path / 'mine'
    mine.mkdir()
    (mine / 'notes.txt').write_text('keep')
    said = run('semflow2diffusers', config, checkpoint, mine, fails=True)
    assert 'error: ' in said and 'mine is there already' in said
    said = run('semflow2diffusers', config, checkpoint, mine, '--overwrite',
               fails=True)
    assert 'mine is no diffusers folder' in said
    assert (mine / 'notes.txt').read_text() == 'keep'
    assert f'wrote {out}' in run('semflow2diffusers', config, checkpoint, out)
    (out / 'semflow.safetensors').unlink()
    run('semflow2diffusers', config, checkpoint, out, '--overwrite')
    run('diffusers2semflow', config, out, back)
    said = run('diffusers2semflow', config, out, back, fails=True)
    assert 'back.pth is there already' in said
    back.write_text('broken')
    run('diffusers2semflow', config, out, back, '--overwrite')
    check_same(torch.load(back, weights_only=True)['state_dict'], expected)


@pytest.fixture(scope='module')
def made(config, tmp_path_factory):
    """A checkpoint and its folder, which nobody changes."""
    root = tmp_path_factory.mktemp('made')
    write_checkpoint(root / 'iter_8.pth')
    conversion.checkpoint_to_folder(config, root / 'iter_8.pth', root / 'folder')
    return root


def test_nothing_is_left_of_a_failure(config, made, tmp_path, monkeypatch):
    (tmp_path / 'back.pth').write_text('the one before')

    def save(obj, path):
        Path(path).write_bytes(b'half')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(torch, 'save', save)
    with pytest.raises(OSError, match='No space left'):
        conversion.folder_to_checkpoint(
            config, made / 'folder', tmp_path / 'back.pth', overwrite=True)
    assert (tmp_path / 'back.pth').read_text() == 'the one before'
    assert len(list(tmp_path.iterdir())) == 1


def break_weights(folder):
    path = folder / 'unet/diffusion_pytorch_model.safetensors'
    weights = load_file(path)
    weights['conv_in.weight'] = torch.zeros(8, 5, 3, 3)
    save_file(weights, path)


def break_settings(folder):
    path = folder / 'vae/config.json'
    path.write_text(path.read_text().replace(
        '"scaling_factor": 0.25', '"scaling_factor": 0.5'))


@pytest.mark.parametrize('harm, error, match', [
    (lambda f: (f / 'semflow.safetensors').unlink(), FileNotFoundError,
     'semflow.safetensors is not a file'),
    (lambda f: (f / 'vae').rename(f / 'other'), FileNotFoundError,
     'folder/vae is not a folder'),
    (lambda f: (f / 'unet/diffusion_pytorch_model.safetensors').unlink(),
     FileNotFoundError, 'diffusion_pytorch_model.safetensors is not a file'),
    (break_weights, ValueError,
     "folder does not fit the config: .*'network.unet.conv_in.weight'"),
    (break_settings, ValueError, 'folder/vae has scaling_factor=0.5, but'),
])
def test_folders_that_do_not_fit(config, made, tmp_path, harm, error, match):
    folder = shutil.copytree(made / 'folder', tmp_path / 'folder')
    harm(folder)
    with pytest.raises(error, match=match):
        conversion.folder_to_checkpoint(config, folder, tmp_path / 'back.pth')
    assert not (tmp_path / 'back.pth').exists()


@pytest.mark.parametrize('kwargs, match', [
    (dict(codec=dict(CODEC, amplitude=7)), 'codec with other amplitude'),
    (dict(network=dict(
        type='VelocityUNet', unet=dict(UNET, layers_per_block=2))),
     'another architecture'),
])
def test_checkpoints_that_do_not_fit(made, tmp_path, kwargs, match):
    with pytest.raises(ValueError, match=f'iter_8.pth does not fit .*{match}'):
        conversion.checkpoint_to_folder(
            config_of(**kwargs), made / 'iter_8.pth', tmp_path / 'folder')
    assert not (tmp_path / 'folder').exists()
