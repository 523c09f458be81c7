"""Checkpoints of ours to and from other formats, in the real formats."""

import runpy
import sys
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

from mmseg_semflow.apis import conversion, load_model
from tiny import CODEC, META, UNET, VAE, runner_cfg, segmentor_cfg, write_sd_folder

TOOLS = Path(__file__).parents[2] / 'tools/model_converters'
NETWORKS = dict(
    velocity_net=dict(type='VelocityUNet', unet=UNET),
    autoencoder=dict(type='KLAutoencoder', vae=VAE))


def model_cfg(adapter='SemFlow', **kwargs):
    return {**segmentor_cfg(**NETWORKS | kwargs), 'type': adapter}


def write_config(folder, **kwargs):
    cfg = runner_cfg('street', folder, model=model_cfg(**kwargs))
    path = folder / 'config.py'
    cfg.dump(path)
    return path


def write_checkpoint(path, **kwargs):
    """Write random weights of several dtypes and memory layouts."""
    model = MODELS.build(model_cfg(**kwargs))
    semflow = model.semflow
    nn.init.normal_(semflow.velocity_net.null_prompt)
    semflow.velocity_net.unet.to(
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
def run(monkeypatch, capsys):
    """Call a tool by its command line, in this process."""

    def call(tool, *args):
        monkeypatch.setattr(sys, 'argv', [tool, *map(str, args)])
        runpy.run_path(str(TOOLS / f'{tool}.py'), run_name='__main__')
        return capsys.readouterr().out

    return call


@pytest.mark.parametrize('kwargs', [
    {},
    dict(
        adapter='DSM',
        type='DSMModel',
        velocity_net=dict(
            type='VelocityUNet', unet=dict(UNET, in_channels=8))),
    dict(
        velocity_net=dict(
            type='VelocityUNet',
            prompt_length=3,
            end_std=(0.5, 1.),
            unet=dict(UNET, in_channels=12, out_channels=12)),
        autoencoder=dict(type='PatchAutoencoder', factor=2))
], ids=['semflow', 'dsm', 'patches'])
def test_round_trip_is_exact(tmp_path, kwargs):
    config = write_config(tmp_path, **kwargs)
    expected = write_checkpoint(tmp_path / 'iter_8.pth', **kwargs)
    folder, back = tmp_path / 'folder', tmp_path / 'back.pth'
    conversion.checkpoint_to_folder(config, tmp_path / 'iter_8.pth', folder)
    conversion.folder_to_checkpoint(config, folder, back)
    checkpoint = torch.load(back, weights_only=True)
    check_same(checkpoint['state_dict'], expected)
    model = MODELS.build(model_cfg(**kwargs))
    model.load_state_dict(checkpoint['state_dict'], strict=True)
    assert load_model(config, back, 'cpu').dataset_meta == META
    # And the folder again from there.
    conversion.checkpoint_to_folder(config, back, tmp_path / 'again')
    for file in folder.rglob('*.safetensors'):
        check_same(
            load_file(tmp_path / 'again' / file.relative_to(folder)),
            load_file(file))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        'again', 'back.pth', 'config.py', 'folder', 'iter_8.pth'
    ]


def test_plain_diffusers_loads_the_folder(tmp_path):
    config = write_config(tmp_path)
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
        'velocity_net.null_prompt', 'codec.levels', 'codec.void_level',
        'codec.noise_level'
    }
    z, t = torch.randn(2, 4, 8, 8), torch.tensor([0.25, 1.])
    prompt = rest['velocity_net.null_prompt'].expand(2, -1, -1)
    with torch.no_grad():
        expected = model.velocity_net(z, t)
        assert torch.equal(unet(z, 1000 * t, prompt).sample, expected)
        torch.testing.assert_close(
            vae.decode(z / vae.config.scaling_factor).sample,
            model.autoencoder.decode(z))


def test_the_weights_are_those_of_testing(street, tmp_path):
    """The averaged ones: EMAHook writes them as the state_dict."""
    cfg = runner_cfg(
        street, tmp_path / 'work', model=model_cfg(), max_iters=2)
    cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.5))
    config = tmp_path / 'config.py'
    cfg.dump(config)
    runner = Runner.from_cfg(cfg.copy())
    runner.train()
    last = runner.model.semflow.velocity_net.unet.state_dict()
    checkpoint = tmp_path / 'work/iter_2.pth'

    class Listen(Hook):

        def before_test_iter(self, runner, *args, **kwargs):
            unet = runner.model.semflow.velocity_net.unet
            tested.update({k: v.clone() for k, v in unet.state_dict().items()})

    tested = {}
    cfg.merge_from_dict(
        dict(load_from=str(checkpoint), experiment_name='tested'))
    runner = Runner.from_cfg(cfg)
    runner.register_hook(Listen())
    runner.test()
    conversion.checkpoint_to_folder(config, checkpoint, tmp_path / 'folder')
    unet = UNet2DConditionModel.from_pretrained(tmp_path / 'folder/unet')
    check_same(unet.state_dict(), tested)
    key = 'conv_in.weight'
    assert not torch.equal(tested[key], last[key])


def test_the_released_unet(tmp_path, run):
    config = write_config(tmp_path)
    unet = UNet2DConditionModel(**UNET)
    torch.save(unet.state_dict(), tmp_path / 'face.pt')
    sd_folder = write_sd_folder(tmp_path / 'sd')
    out = tmp_path / 'out/face.pth'
    done = run('released2semflow', config, tmp_path / 'face.pt', out,
               '--sd-folder', sd_folder)
    assert f'wrote {out}' in done
    model = MODELS.build(model_cfg())
    checkpoint = torch.load(out, weights_only=True)
    model.load_state_dict(checkpoint['state_dict'], strict=True)
    check_same(model.semflow.velocity_net.unet.state_dict(), unet.state_dict())
    check_same(
        model.semflow.autoencoder.vae.state_dict(),
        AutoencoderKL.from_pretrained(sd_folder / 'vae').state_dict())
    assert model.semflow.velocity_net.null_prompt.any()
    assert checkpoint['meta']['dataset_meta'] == META
    # Another codec than the config's is refused, as for any checkpoint.
    other = dict(CODEC, amplitude=7)
    with pytest.raises(ValueError, match='codec with other amplitude'):
        MODELS.build(model_cfg(codec=other)).load_state_dict(
            checkpoint['state_dict'])


def test_the_released_unet_needs_a_folder(tmp_path):
    config = write_config(tmp_path)
    with pytest.raises(ValueError, match='config.py has no sd_folder'):
        conversion.released_to_checkpoint(config, 'face.pt', tmp_path / 'out')
    config = write_config(
        tmp_path, autoencoder=dict(type='PatchAutoencoder', factor=2),
        velocity_net=dict(
            type='VelocityUNet',
            unet=dict(UNET, in_channels=12, out_channels=12)))
    with pytest.raises(ValueError, match="needs .*type='KLAutoencoder'"):
        conversion.released_to_checkpoint(config, 'face.pt', tmp_path / 'out')


def test_the_tokenizer_is_clips(tmp_path, monkeypatch):
    """As mmsegmentation's own, for any text."""
    given = {}
    monkeypatch.setattr(
        conversion, 'single_file_to_folder',
        lambda path, folder, **kwargs: given.update(kwargs) or folder.mkdir())
    conversion.stable_diffusion_to_folder(
        write_config(tmp_path), 'w.ckpt', tmp_path / 'sd')
    from mmseg_semflow.networks.diffusers_folder import _tokenizer
    tokenizer = _tokenizer(
        tmp_path / 'tokenizer', given['vocabulary'], given['merges'])
    assert isinstance(tokenizer, CLIPTokenizer) and len(tokenizer) == 49408
    assert tokenizer('').input_ids == [49406, 49407]
    text = "A photo of 2 cats, isn't it? Zürich's trams"
    assert tokenizer(text).input_ids[1:-1] == SimpleTokenizer().encode(text)


def test_tools_refuse_what_is_there(tmp_path, run):
    config = write_config(tmp_path)
    checkpoint, out, back = (
        tmp_path / name for name in ('iter_8.pth', 'out', 'back.pth'))
    expected = write_checkpoint(checkpoint)
    mine = tmp_path / 'mine'
    mine.mkdir()
    (mine / 'notes.txt').write_text('keep')
    with pytest.raises(SystemExit, match='error: .*mine is there already'):
        run('semflow2diffusers', config, checkpoint, mine)
    with pytest.raises(SystemExit, match='error: .*mine is no diffusers folder'):
        run('semflow2diffusers', config, checkpoint, mine, '--overwrite')
    assert (mine / 'notes.txt').read_text() == 'keep'
    assert f'wrote {out}' in run('semflow2diffusers', config, checkpoint, out)
    (out / 'semflow.safetensors').unlink()
    run('semflow2diffusers', config, checkpoint, out, '--overwrite')
    run('diffusers2semflow', config, out, back)
    with pytest.raises(SystemExit, match='error: .*back.pth is there already'):
        run('diffusers2semflow', config, out, back)
    back.write_text('broken')
    run('diffusers2semflow', config, out, back, '--overwrite')
    check_same(torch.load(back, weights_only=True)['state_dict'], expected)


def test_nothing_is_left_of_a_failure(tmp_path, monkeypatch):
    config = write_config(tmp_path)
    write_checkpoint(tmp_path / 'iter_8.pth')
    (tmp_path / 'back.pth').write_text('the one before')
    conversion.checkpoint_to_folder(
        config, tmp_path / 'iter_8.pth', tmp_path / 'folder')

    def save(obj, path):
        Path(path).write_bytes(b'half')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(torch, 'save', save)
    with pytest.raises(OSError, match='No space left'):
        conversion.folder_to_checkpoint(
            config, tmp_path / 'folder', tmp_path / 'back.pth', overwrite=True)
    assert (tmp_path / 'back.pth').read_text() == 'the one before'
    assert len(list(tmp_path.iterdir())) == 4


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
     "folder does not fit the config: .*'velocity_net.unet.conv_in.weight'"),
    (break_settings, ValueError, 'folder/vae has scaling_factor=0.5, but'),
])
def test_folders_that_do_not_fit(tmp_path, harm, error, match):
    config = write_config(tmp_path)
    write_checkpoint(tmp_path / 'iter_8.pth')
    folder = tmp_path / 'folder'
    conversion.checkpoint_to_folder(config, tmp_path / 'iter_8.pth', folder)
    harm(folder)
    with pytest.raises(error, match=match):
        conversion.folder_to_checkpoint(config, folder, tmp_path / 'back.pth')
    assert not (tmp_path / 'back.pth').exists()


@pytest.mark.parametrize('kwargs, match', [
    (dict(codec=dict(CODEC, amplitude=7)), 'codec with other amplitude'),
    (dict(velocity_net=dict(
        type='VelocityUNet', unet=dict(UNET, layers_per_block=2))),
     'another architecture'),
])
def test_checkpoints_that_do_not_fit(tmp_path, kwargs, match):
    write_checkpoint(tmp_path / 'iter_8.pth')
    config = write_config(tmp_path, **kwargs)
    with pytest.raises(ValueError, match=f'iter_8.pth does not fit .*{match}'):
        conversion.checkpoint_to_folder(
            config, tmp_path / 'iter_8.pth', tmp_path / 'folder')
    assert not (tmp_path / 'folder').exists()
