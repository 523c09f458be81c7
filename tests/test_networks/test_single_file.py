"""Single-file checkpoints in the key names of CompVis' code, tiny."""

import re

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from mmengine.registry import MODELS
from safetensors.torch import load_file, save_file

from mmseg_semflow.networks.diffusers_folder import single_file_to_folder
from tiny import UNET, VAE, byte_vocabulary, text_encoder

RESNET = {
    'norm1.': 'in_layers.0.',
    'conv1.': 'in_layers.2.',
    'time_emb_proj.': 'emb_layers.1.',
    'norm2.': 'out_layers.0.',
    'conv2.': 'out_layers.3.',
    'conv_shortcut.': 'skip_connection.'
}
ENDS = {
    'time_embedding.linear_1.': 'time_embed.0.',
    'time_embedding.linear_2.': 'time_embed.2.',
    'conv_in.': 'input_blocks.0.0.',
    'conv_norm_out.': 'out.0.',
    'conv_out.': 'out.2.'
}
ATTENTION = {
    'group_norm.': 'norm.',
    'to_q.': 'q.',
    'to_k.': 'k.',
    'to_v.': 'v.',
    'to_out.0.': 'proj_out.'
}
UNET64 = dict(UNET, cross_attention_dim=64)


def rename(key, table):
    for old, new in table.items():
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key


def unet_to_ldm(unet):
    """Write a UNet's state dict in the names of CompVis' code."""
    layers, found = unet.config.layers_per_block, {}
    for key, value in unet.state_dict().items():
        block = re.match(r'(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)', key)
        middle = re.match(r'mid_block\.(\w+)\.(\d+)\.(.*)', key)
        if block:
            side, level, kind, i, rest = block.groups()
            level, i = int(level), int(i)
            place = {'resnets': 0, 'attentions': 1}.get(kind, 0)
            if kind == 'downsamplers':
                i, rest = layers, rest.replace('conv.', 'op.')
            elif kind == 'upsamplers':
                i = layers
                place = 1 + hasattr(unet.up_blocks[level], 'attentions')
            number = level * (layers + 1) + i + (side == 'down')
            name = 'input_blocks' if side == 'down' else 'output_blocks'
            if kind == 'resnets':
                rest = rename(rest, RESNET)
            key = f'{name}.{number}.{place}.{rest}'
        elif middle:
            kind, i, rest = middle.groups()
            place = 1 if kind == 'attentions' else 2 * int(i)
            if kind == 'resnets':
                rest = rename(rest, RESNET)
            key = f'middle_block.{place}.{rest}'
        else:
            key = rename(key, ENDS)
        found[f'model.diffusion_model.{key}'] = value
    return found


def vae_to_ldm(vae):
    """Write a VAE's state dict in the names of CompVis' code."""
    last, found = len(vae.config.block_out_channels) - 1, {}
    for key, value in vae.state_dict().items():
        key = re.sub(r'conv_shortcut\.', 'nin_shortcut.', key)
        key = re.sub(r'down_blocks\.(\d+)\.resnets\.', r'down.\1.block.', key)
        key = re.sub(r'down_blocks\.(\d+)\.downsamplers\.0\.',
                     r'down.\1.downsample.', key)
        key = re.sub(r'up_blocks\.(\d+)\.resnets\.',
                     lambda m: f'up.{last - int(m[1])}.block.', key)
        key = re.sub(r'up_blocks\.(\d+)\.upsamplers\.0\.',
                     lambda m: f'up.{last - int(m[1])}.upsample.', key)
        key = re.sub(r'mid_block\.resnets\.(\d)\.',
                     lambda m: f'mid.block_{int(m[1]) + 1}.', key)
        key = key.replace('conv_norm_out.', 'norm_out.')
        side, inside, rest = key.partition('mid_block.attentions.0.')
        if inside:
            key = f'{side}mid.attn_1.{rename(rest, ATTENTION)}'
            if value.ndim == 2:
                value = value[:, :, None, None]
        found[f'first_stage_model.{key}'] = value
    return found


def text_to_ldm(encoder):
    # transformers >= 5 leaves out the name of the part, which the files have.
    found = {
        f'cond_stage_model.transformer.text_model.'
        f'{key.removeprefix("text_model.")}': value
        for key, value in encoder.state_dict().items()
    }
    name = 'text_model.embeddings.position_ids'
    return found | {
        f'cond_stage_model.transformer.{name}': torch.arange(77)[None]
    }


def single_file(unet, vae, encoder):
    return {
        **unet_to_ldm(unet),
        **vae_to_ldm(vae),
        **text_to_ldm(encoder), 'betas': torch.rand(1000),
        'model_ema.num_updates': torch.tensor(7)
    }


def convert(path, folder, unet=UNET64):
    single_file_to_folder(path, folder, unet, VAE, byte_vocabulary(), [])


def build_parts(dtype=torch.float32):
    parts = (UNet2DConditionModel(**UNET64), AutoencoderKL(**VAE),
             text_encoder(64, heads=1))
    return [part.to(dtype) for part in parts]


def check_same(found, expected, dtype):
    found = found.state_dict() if hasattr(found, 'state_dict') else found
    expected = expected.state_dict()
    assert found.keys() == expected.keys()
    for key, value in found.items():
        assert value.dtype == dtype and torch.equal(value, expected[key]), key


@pytest.mark.parametrize('suffix, dtype', [('.safetensors', torch.float32),
                                           ('.ckpt', torch.float16)])
def test_a_single_file_becomes_a_folder(tmp_path, suffix, dtype):
    parts = build_parts(dtype)
    path = tmp_path / f'v1-5{suffix}'
    state_dict = single_file(*parts)
    if suffix == '.ckpt':
        torch.save(dict(state_dict=state_dict, global_step=7), path)
    else:
        save_file(state_dict, path)
    convert(path, tmp_path / 'sd')
    names = ('unet', 'vae', 'text_encoder')
    for name, part in zip(names, parts, strict=True):
        file = next((tmp_path / 'sd' / name).glob('*.safetensors'))
        check_same(load_file(file), part, dtype)
    pipeline = StableDiffusionPipeline.from_pretrained(
        tmp_path / 'sd', torch_dtype=dtype)
    for name, part in zip(names, parts, strict=True):
        check_same(getattr(pipeline, name), part, dtype)
    assert pipeline.scheduler.config.prediction_type == 'epsilon'


def test_the_folder_is_what_training_starts_from(tmp_path):
    parts = build_parts()
    save_file(single_file(*parts), tmp_path / 'w.safetensors')
    convert(tmp_path / 'w.safetensors', tmp_path / 'sd')
    sd_folder = str(tmp_path / 'sd')
    net = MODELS.build(
        dict(type='VelocityUNet', unet=UNET64, sd_folder=sd_folder))
    autoencoder = MODELS.build(
        dict(type='KLAutoencoder', vae=VAE, sd_folder=sd_folder))
    net.init_weights()
    autoencoder.init_weights()
    check_same(net.unet, parts[0], torch.float32)
    check_same(autoencoder.vae, parts[1], torch.float32)
    ids = torch.tensor([[512] + [513] * 76])
    torch.testing.assert_close(net.null_prompt, parts[2].eval()(ids)[0])


def test_averaged_weights_are_taken(tmp_path):
    parts, averaged = build_parts(), UNet2DConditionModel(**UNET64)
    state_dict = single_file(*parts)
    for key, value in unet_to_ldm(averaged).items():
        key = key.removeprefix('model.').replace('.', '')
        state_dict[f'model_ema.{key}'] = value
    save_file(state_dict, tmp_path / 'w.safetensors')
    convert(tmp_path / 'w.safetensors', tmp_path / 'sd')
    found = UNet2DConditionModel.from_pretrained(tmp_path / 'sd/unet')
    check_same(found, averaged, torch.float32)


OPEN_CLIP = 'cond_stage_model.model.transformer.resblocks.0.ln_1.weight'
ATTN = 'model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight'
JOINT = 'model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight'
VAE_KEY = 'first_stage_model.encoder.conv_in.weight'


@pytest.mark.parametrize('weights, version', [
    ({ATTN: (8, 1024), VAE_KEY: 1, OPEN_CLIP: 1}, 'Stable Diffusion 2'),
    ({ATTN: (8, 2048), VAE_KEY: 1, 'conditioner.a': 1}, 'SDXL'),
    ({JOINT: 1, VAE_KEY: 1}, 'Stable Diffusion 3'),
])
def test_other_versions_are_named(tmp_path, weights, version):
    path = tmp_path / 'w.safetensors'
    save_file({key: torch.zeros(shape) for key, shape in weights.items()}, path)
    with pytest.raises(
            ValueError,
            match=rf'w.safetensors \({version}\) is no single-file checkpoint '
            'of Stable Diffusion 1: no key begins with .cond_stage_model.tran'):
        convert(path, tmp_path / 'sd')


@pytest.mark.parametrize('remove, unet, match', [
    ('cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight',
     UNET64, 'its text encoder has no .*mlp.fc1.weight'),
    ('cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc2.weight',
     UNET64, 'its text encoder does not fit .*mlp.fc2.weight: missing'),
    ('first_stage_model.decoder.conv_out.bias', UNET64,
     'its vae does not fit .*decoder.conv_out.bias: missing'),
    ('model.diffusion_model.out.2.bias', UNET64,
     'its unet does not fit .*conv_out.bias: missing'),
    ('betas', dict(UNET64, block_out_channels=(8, 8)),
     'its unet does not fit .* shape'),
    ('betas', dict(UNET64, in_channels=9), 'its unet does not fit .*conv_in'),
])
def test_what_does_not_fit_is_named(tmp_path, remove, unet, match):
    state_dict = single_file(*build_parts())
    del state_dict[remove]
    save_file(state_dict, tmp_path / 'w.safetensors')
    with pytest.raises(ValueError, match=f'w.safetensors: {match}'):
        convert(tmp_path / 'w.safetensors', tmp_path / 'sd', unet)


def test_text_encoder_of_another_width(tmp_path):
    unet, vae, _ = build_parts()
    save_file(
        single_file(unet, vae, text_encoder(128, heads=2)),
        tmp_path / 'w.safetensors')
    with pytest.raises(
            ValueError,
            match='text encoder is 128 wide, but the cross_attention_dim of the '
            'unet is 64'):
        convert(tmp_path / 'w.safetensors', tmp_path / 'sd')


def test_a_file_that_carries_code(tmp_path):
    state_dict = dict(single_file(*build_parts()), hook=print)
    torch.save(dict(state_dict=state_dict), tmp_path / 'w.ckpt')
    with pytest.raises(ValueError, match='w.ckpt cannot be read'):
        convert(tmp_path / 'w.ckpt', tmp_path / 'sd')
