"""Bases: read from tiny folders in the published layout, called as diffusers does."""

import json
import shutil
import sys
import types
from functools import cache, partial

import pytest
import torch
import transformers as published
from mmengine.registry import FUNCTIONS, MODELS
from safetensors.torch import load_file, save_file
from torch import nn

from bases import PARTS, network_of, parts_of, write_base
from mmseg_semflow.networks import null_prompt, pretrained
from mmseg_semflow.networks.pretrained import headers_alone

TRANSFORMERS = [name for name in PARTS if name not in ('sd21', 'sdxl')]
PROMPTED = [name for name in PARTS if name != 'dit']
all_bases = pytest.mark.parametrize('name', PARTS)
transformers = pytest.mark.parametrize('name', TRANSFORMERS)


@pytest.fixture(scope='module')
def base(tmp_path_factory):
    """Give folder and pipeline of a base by its name, which no test changes."""
    root = tmp_path_factory.mktemp('bases')

    @cache
    def write(name):
        pipeline = write_base(name, root)
        return root / name, pipeline

    return write


@pytest.fixture(scope='module')
def loaded(base):
    """Give the network of a base by its name, with the weights of its folder."""

    @cache
    def load(name):
        net = MODELS.build(parts_of(name, base(name)[0])[0])
        net.init_weights()
        return net.eval()

    return load


def build(name, **kwargs):
    return MODELS.build(parts_of(name, **kwargs)[0]).eval()


def core(net):
    return net.unet if hasattr(net, 'unet') else net.transformer


def inputs(net, size=(8, 12), batch=2):
    if 'DiT' in type(core(net)).__name__:
        size = (8, 8)
    return torch.randn(batch, net.in_channels, *size), torch.rand(batch)


@all_bases
def test_weights_are_those_of_the_folder(name, base, loaded):
    folder, pipeline = base(name)
    assert json.loads((folder / 'model_index.json').read_text())
    source = core(loaded(name)), pipeline.components.get('unet') or \
        pipeline.transformer
    found, expected = (module.state_dict() for module in source)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key
    autoencoder = MODELS.build(parts_of(name, folder)[1])
    autoencoder.init_weights()
    for key, value in pipeline.vae.state_dict().items():
        assert torch.equal(autoencoder.vae.state_dict()[key], value), key


@torch.no_grad()
def null_of(pipeline, name):
    """Encode the empty prompt as the pipeline does for itself."""
    once = dict(device='cpu', num_images_per_prompt=1)
    if name == 'flux2':
        return dict(prompt=pipeline.encode_prompt(
            '', max_sequence_length=9, **once)[0])
    if name == 'flux':
        prompt, pooled, _ = pipeline.encode_prompt(
            '', None, max_sequence_length=6, **once)
        return dict(prompt=prompt, pooled=pooled)
    once['do_classifier_free_guidance'] = False
    if name == 'sd3':
        found = pipeline.encode_prompt('', '', '', max_sequence_length=7, **once)
        return dict(prompt=found[0], pooled=found[2])
    if name == 'sdxl':
        # What stands for no prompt, beside one.
        once['do_classifier_free_guidance'] = True
        _, prompt, _, pooled = pipeline.encode_prompt('a street', **once)
        return dict(prompt=prompt, pooled=pooled)
    found = pipeline.encode_prompt('', **once)
    if name in ('sana', 'pixart'):
        return dict(prompt=found[0], mask=found[1])
    return dict(prompt=found[0])


@pytest.mark.parametrize('name', ['sd21', 'sdxl', 'sd3', 'flux', 'flux2'])
def test_the_null_condition_is_that_of_the_pipeline(name, base, loaded):
    net = loaded(name)
    for key, value in null_of(base(name)[1], name).items():
        own = getattr(net, f'null_{key}')
        torch.testing.assert_close(own, value)
        # SDXL's published folder asks for zeros.
        assert own.any() == (name != 'sdxl')


def sdxl_with(folder, tmp_path, index):
    """A copy of a folder with another index, and the network that reads it."""
    copied = shutil.copytree(folder, tmp_path / 'sdxl')
    (copied / 'model_index.json').write_text(json.dumps(index))
    net = build('sdxl')
    net.sd_folder = str(copied)
    return net


@pytest.mark.parametrize('zeros', [True, False, None])
def test_the_null_condition_of_sdxl_is_zeros_where_its_folder_says_so(
        zeros, base, tmp_path):
    folder, pipeline = base('sdxl')
    index = json.loads((folder / 'model_index.json').read_text())
    assert index.pop('force_zeros_for_empty_prompt') is True
    given = {} if zeros is None else dict(force_zeros_for_empty_prompt=zeros)
    net = sdxl_with(folder, tmp_path, index | given)
    net.init_weights()
    theirs = type(pipeline).from_pretrained(tmp_path / 'sdxl')
    for key, value in null_of(theirs, 'sdxl').items():
        own = getattr(net, f'null_{key}')
        torch.testing.assert_close(own, value)
        assert own.any() == (zeros is False)


def test_a_folder_of_sdxl_that_does_not_say(base, tmp_path):
    folder, _ = base('sdxl')
    net = sdxl_with(folder, tmp_path, dict(force_zeros_for_empty_prompt='no'))
    with pytest.raises(ValueError, match="json must be true or false, but got 'no'"):
        net.init_weights()
    (tmp_path / 'sdxl/model_index.json').unlink()
    with pytest.raises(FileNotFoundError, match='index.json is not a file: the pipel'):
        net.init_weights()


@torch.no_grad()
def expected_velocity(pipeline, name, zt, t):
    """Call diffusers' network as the pipeline does at sigma = t."""
    net = pipeline.components.get('unet') or pipeline.transformer
    if name == 'dit':
        return net(zt, 1000 * t, torch.full((len(zt), ), 1000)).sample.chunk(2, 1)[0]
    null = {
        key: value.expand(len(zt), *value.shape[1:])
        for key, value in null_of(pipeline, name).items()
    }
    if name == 'sdxl':
        sizes = torch.tensor([[24., 32., 0., 0., 24., 32.]]).expand(len(zt), -1)
        added = dict(text_embeds=null['pooled'], time_ids=sizes)
        return net(zt, 1000 * t, null['prompt'], added_cond_kwargs=added).sample
    if name == 'sd3':
        return net(zt, null['prompt'], null['pooled'], 1000 * t).sample
    height, width = zt.shape[-2:]
    if name == 'flux':
        packed = pipeline._pack_latents(zt, *zt.shape)
        ids = pipeline._prepare_latent_image_ids(
            len(zt), height // 2, width // 2, 'cpu', zt.dtype)
        out = net(packed, null['prompt'], null['pooled'], t, ids,
                  torch.zeros(6, 3), guidance=torch.ones(len(zt))).sample
        # Of a picture in pixels.
        return pipeline._unpack_latents(out, 8 * height, 8 * width, 8)
    if name == 'flux2':
        patches = pipeline._patchify_latents(zt)
        ids = pipeline._prepare_latent_ids(patches)
        out = net(pipeline._pack_latents(patches), null['prompt'], t, ids,
                  pipeline._prepare_text_ids(null['prompt'])).sample
        return pipeline._unpatchify_latents(
            pipeline._unpack_latents_with_ids(out, ids))
    if name in ('sana', 'pixart'):
        # The pipeline pads the prompt and hides the padding.
        assert null['mask'].sum() < null['mask'].numel()
        out = net(zt, null['prompt'], timestep=1000 * t,
                  encoder_attention_mask=null['mask']).sample
        return out[:, :zt.shape[1]]
    return net(zt, 1000 * t, null['prompt']).sample


@all_bases
def test_the_network_is_called_as_its_pipeline_does(name, base, loaded):
    net = loaded(name)
    zt, t = inputs(net)
    found = net(zt, t)
    assert found.shape == zt.shape and found.dtype == torch.float32
    torch.testing.assert_close(
        found, expected_velocity(base(name)[1], name, zt, t), atol=2e-5, rtol=1e-4)
    # It looks at the time, of every sample its own.
    assert not torch.allclose(found, net(zt, t.flip(0)), atol=1e-5)


@pytest.mark.parametrize('name', ['sd3', 'flux', 'flux2', 'sana'])
def test_time_and_sign_are_those_of_the_scheduler(name, base):
    """A step of the base's sampler is one of ours from t = 1 to 0."""
    scheduler = base(name)[1].scheduler
    scheduler.set_timesteps(4)
    torch.testing.assert_close(scheduler.timesteps / 1000, scheduler.sigmas[:-1])
    assert scheduler.sigmas[0] == 1 and scheduler.sigmas[-1] == 0
    z, velocity = torch.randn(2, 1, 4, 4)
    moved = scheduler.step(velocity, scheduler.timesteps[0], z).prev_sample
    step = scheduler.sigmas[1] - scheduler.sigmas[0]
    torch.testing.assert_close(moved, z + step * velocity)
    # Between picture and noise, as between picture and mask.
    noised = scheduler.scale_noise(z, scheduler.timesteps[1:2], velocity)
    sigma = scheduler.sigmas[1]
    torch.testing.assert_close(noised, (1 - sigma) * z + sigma * velocity)


@transformers
def test_time_is_not_rounded(name):
    """0.998 and 0.999 are one number in bfloat16."""
    net = build(name).bfloat16()
    embed = next(m for m in net.modules() if hasattr(m, 'timestep_embedder'))
    seen = []
    embed.timestep_embedder.register_forward_pre_hook(
        lambda module, args: seen.append(args[0]))
    out = net(inputs(net)[0], torch.tensor([0.998, 0.999]))
    assert out.dtype == torch.float32
    waves = embed.time_proj(torch.tensor([998., 999.]))
    torch.testing.assert_close(seen[0].float(), waves, atol=0.01, rtol=0)
    assert (waves[0] - waves[1]).abs().max() > 0.5


@transformers
def test_odd_latents_are_padded_and_cropped(name, loaded):
    net = loaded(name)
    size = (7, 7) if name == 'dit' else (5, 7)
    zt, t = torch.randn(2, net.in_channels, *size), torch.rand(2)
    found = net(zt, t)
    assert found.shape == zt.shape
    if name != 'sana':  # its patches are cells
        more = nn.functional.pad(zt, (0, 1, 0, 1), mode='replicate')
        torch.testing.assert_close(found, net(more, t)[..., :size[0], :size[1]])


@all_bases
def test_gradient_checkpointing_changes_no_gradient(name):
    grads = []
    for flag in (False, True):
        torch.manual_seed(0)
        net = build(name, gradient_checkpointing=flag).train()
        zt, t = inputs(net)
        net(zt, t).square().mean().backward()
        grads.append([p.grad for p in net.parameters()])
    # Distributed training waits for every one.
    assert all(grad is not None for grad in grads[0])
    torch.testing.assert_close(grads[0], grads[1])


@pytest.mark.parametrize('name', PROMPTED)
def test_prompt_and_token(name, loaded):
    net = loaded(name)
    zt, t = inputs(net)
    null, width = net.null_prompt, net.null_prompt.shape[-1]
    expected = net(zt, t)
    torch.testing.assert_close(net(zt, t, dict(prompt=null)), expected)
    token = torch.randn(2, 1, width)
    prompt = torch.cat([null.expand(2, -1, -1), token], 1)
    found = net(zt, t, dict(token=token))
    torch.testing.assert_close(found, net(zt, t, dict(prompt=prompt)))
    assert not torch.allclose(found, expected, atol=1e-5)


def test_unknown_conditions():
    zt, t = torch.randn(1, 4, 8, 8), torch.rand(1)
    with pytest.raises(ValueError, match="DiTTr.* are none, but got 'prompt'"):
        build('dit')(zt, t, dict(prompt=torch.zeros(1, 1, 4)))
    with pytest.raises(ValueError, match="'prompt' and 'token', but got 'style'"):
        build('pixart')(zt, t, dict(style=torch.zeros(1)))


@transformers
def test_fsdp_wraps_every_block(name):
    net = build(name)
    policy = FUNCTIONS.get('wrap_transformer_blocks')
    wrap = partial(policy, recurse=False, nonwrapped_numel=0)
    blocks = [
        block for part in net.transformer.children()
        if isinstance(part, nn.ModuleList) for block in part
    ]
    found = [module for module in net.modules() if wrap(module)]
    assert {*map(id, found)} == {*map(id, [net.transformer, *blocks])}
    assert policy(nn.Linear(1, 1), True, 0) and not wrap(nn.Linear(1, 1))


def test_pixart_is_told_the_size_of_its_picture():
    """Of the kind of PixArt-alpha at 1024."""
    cfg, _ = parts_of('pixart')
    cfg['transformer'] = dict(cfg['transformer'], use_additional_conditions=True)
    net = MODELS.build(cfg).eval()
    zt, t = inputs(net)
    told = dict(
        resolution=torch.tensor([[64., 96.]] * 2),
        aspect_ratio=torch.tensor([[64 / 96]] * 2))
    expected = net.transformer(
        zt, net.null_prompt.expand(2, -1, -1), 1000 * t, added_cond_kwargs=told)[0]
    torch.testing.assert_close(net(zt, t), expected[:, :4])


def test_flux_is_told_a_fixed_guidance():
    torch.manual_seed(0)
    plain = build('flux')
    torch.manual_seed(0)
    guided = build('flux', guidance=3.5)
    zt, t = inputs(plain)
    assert not torch.allclose(plain(zt, t), guided(zt, t), atol=1e-6)


def test_sizes_that_a_base_cannot_take():
    with pytest.raises(ValueError, match='square latents alone, but got 8x12'):
        build('dit')(torch.randn(1, 4, 8, 12), torch.rand(1))
    with pytest.raises(ValueError, match=r'cannot be greater than `pos_embed_max'):
        build('sd3')(torch.randn(1, 16, 50, 8), torch.rand(1))


def test_bad_types():
    with pytest.raises(ValueError, match="SD3.*, but got 'UNet2DModel'"):
        MODELS.build(dict(type='VelocityTransformer',
                          transformer=dict(type='UNet2DModel')))


@pytest.mark.parametrize('name', ['sd21', 'sd3'])
def test_a_prompt_has_tokens(name):
    with pytest.raises(ValueError, match='prompt_length must be above 0, but got -1'):
        build(name, prompt_length=-1)


def test_a_class_that_diffusers_lacks(monkeypatch):
    older = types.ModuleType('diffusers')
    older.__version__ = '0.30.0'
    monkeypatch.setitem(sys.modules, 'diffusers', older)
    with pytest.raises(ValueError, match='0.30.0 has no Flux2Tr.*: install'):
        build('flux2')


@pytest.mark.parametrize('name, size', [('sdxl', None), ('sd21', (8, 8))])
def test_the_size_of_the_picture_is_for_sdxl_alone(name, size):
    with pytest.raises(ValueError, match='picture_size must be given for a UNet'):
        build(name, picture_size=size)


NAMES = dict(
    # Too narrow to be known.
    sdxl='the base of this config', sd3='Stable Diffusion 3', flux=r'FLUX\.1',
    flux2=r'FLUX\.2', sana='SANA', pixart='PixArt', dit='DiT')


@transformers
def test_a_folder_of_another_base_is_named(name, base):
    """Both are: what the folder holds and what the config is for."""
    other = 'flux2' if name == 'flux' else 'flux'
    net = build(name)
    net.sd_folder = str(base(other)[0])
    with pytest.raises(
            ValueError,
            match=(f'transformer .{NAMES[other]}. is of the class Flux.*, but this '
                   f'config, which is for {NAMES[name]}, has')):
        net.init_weights()
    net.sd_folder = str(base('sd21')[0])
    with pytest.raises(
            FileNotFoundError,
            match=f'sd21/transformer is not a folder.*Put {NAMES[name]} in '):
        net.init_weights()


def test_settings_of_a_transformer_that_no_shape_shows(base):
    folder, _ = base('sd3')
    cfg, _ = parts_of('sd3', folder)
    cfg['transformer'] = dict(cfg['transformer'], attention_head_dim=4,
                              num_attention_heads=4)
    with pytest.raises(ValueError, match='has attention_head_dim=8, but this config, '
                       'which is for Stable Diffusion 3, has attention_head_dim=4'):
        MODELS.build(cfg).init_weights()


@pytest.mark.parametrize('name, length', [('sd3', 8), ('sana', 2)])
def test_prompts_of_another_length(name, length, base, tmp_path):
    folder = base(name)[0]
    net = build(name, prompt_length=length)
    net.sd_folder = str(folder)
    if name == 'sana':
        with pytest.raises(ValueError, match='makes 1 tokens .*prompt_length=2'):
            net.init_weights()
    else:
        net.init_weights()
        assert net.null_prompt.shape == (1, 77 + 8, 32)


@pytest.mark.parametrize('name', ['flux', 'sdxl'])
def test_missing_text_encoders_are_named(name, base, tmp_path):
    folder = shutil.copytree(base(name)[0], tmp_path / name)
    shutil.rmtree(folder / 'text_encoder_2')
    net = build(name)
    net.sd_folder = str(folder)
    with pytest.raises(
            FileNotFoundError,
            match=f'{name}/text_encoder_2 is not a folder.*Put {NAMES[name]}'):
        net.init_weights()


def without(path, key):
    weights = load_file(path)
    del weights[key]
    save_file(weights, path, metadata=dict(format='pt'))


def rewrite(**changes):

    def harm(path):
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return harm


@pytest.mark.parametrize('file, harm, match', [
    ('text_encoder/model.safetensors',
     lambda path: without(path, 'encoder.final_layer_norm.weight'),
     'text_encoder .PixArt. lacks 1 of its weights, .*final_layer_norm.weight'),
    ('text_encoder/model.safetensors', lambda path: path.write_bytes(b'half'),
     'text_encoder/model.safetensors cannot be read: it is truncated'),
    ('text_encoder/model.safetensors',
     lambda path: path.write_bytes(path.read_bytes()[8:]),
     'text_encoder/model.safetensors cannot be read: it is truncated'),
    ('text_encoder/config.json', lambda path: path.write_text('{}'),
     'text_encoder .PixArt. cannot be read'),
    ('text_encoder/config.json', rewrite(d_model='a'),
     'text_encoder .PixArt. cannot be read'),
    ('text_encoder/config.json', rewrite(num_layers=2**32),
     'text_encoder/config.json declares more weights than the .* bytes of'),
    ('transformer/config.json', rewrite(num_layers=2**32),
     'transformer/config.json declares more weights than the .* bytes of'),
    ('tokenizer/tokenizer.json', lambda path: path.write_text('{"a'),
     'tokenizer .PixArt. cannot be read')])
def test_damaged_parts_are_named(base, tmp_path, file, harm, match):
    folder = shutil.copytree(base('pixart')[0], tmp_path / 'pixart')
    harm(folder / file)
    net = build('pixart')
    net.sd_folder = str(folder)
    with pytest.raises(ValueError, match=match):
        net.init_weights()
    assert not net.null_prompt.any()


def test_text_encoders_of_another_base_are_named(base, tmp_path):
    folder = shutil.copytree(base('flux')[0], tmp_path / 'flux')
    shutil.rmtree(folder / 'text_encoder_2')
    shutil.copytree(folder / 'text_encoder', folder / 'text_encoder_2')
    net = build('flux')
    net.sd_folder = str(folder)
    with pytest.raises(
            ValueError,
            match=r'null prompt of .*flux/text_encoder \(FLUX.1\) has shape '
            r'\(1, 6, 16\), but this config, which is for'):
        net.init_weights()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize('name', ['flux', 'sdxl'])
def test_weights_are_read_in_the_dtype_of_their_files(
        name, dtype, base, tmp_path, monkeypatch):
    folder = shutil.copytree(base(name)[0], tmp_path / name)
    source = network_of(name).to(dtype)
    part = 'unet' if name == 'sdxl' else 'transformer'
    source.save_pretrained(folder / part, max_shard_size='40KB')
    (folder / part / f'{pretrained.WEIGHTS}.safetensors').unlink()
    read = []
    load = pretrained.load_matching
    monkeypatch.setattr(
        pretrained, 'load_matching', lambda module, weights, source:
        read.append(weights) or load(module, weights, source))
    net = build(name)
    net.sd_folder = str(folder)
    net.init_weights()
    weights, = read
    assert {value.dtype for value in weights.values()} == {dtype}
    for key, value in source.state_dict().items():
        own = core(net).state_dict()[key]
        assert own.dtype == torch.float32 and torch.equal(own, value.float()), key


def test_weights_of_several_dtypes_are_read_as_float32(base, tmp_path):
    folder = shutil.copytree(base('flux')[0], tmp_path / 'flux')
    path = folder / f'transformer/{pretrained.WEIGHTS}.safetensors'
    weights = load_file(path)
    rounded, exact = list(weights)[:2]
    weights[rounded] = weights[rounded].bfloat16()
    save_file(weights, path, metadata=dict(format='pt'))
    net = build('flux')
    net.sd_folder = str(folder)
    net.init_weights()
    for key in (rounded, exact):
        assert torch.equal(core(net).state_dict()[key], weights[key].float()), key


@pytest.mark.parametrize('version, key', [
    ('4.41.0', 'torch_dtype'), ('4.57.3', 'torch_dtype'), ('5.24.0', 'dtype')])
@pytest.mark.parametrize('stored, read', [
    (torch.bfloat16, torch.bfloat16), (torch.float16, torch.float32)])
def test_text_encoders_are_read_in_the_dtype_of_their_files(
        stored, read, version, key, base, tmp_path, monkeypatch):
    """float16 is too narrow for T5. What the config says is not asked."""
    folder = shutil.copytree(base('pixart')[0], tmp_path / 'pixart')
    config = (folder / 'text_encoder/config.json').read_bytes()
    base('pixart')[1].text_encoder.to(stored).save_pretrained(folder / 'text_encoder')
    base('pixart')[1].text_encoder.float()
    (folder / 'text_encoder/config.json').write_bytes(config)
    monkeypatch.setattr(published, '__version__', version)
    load, given = published.T5EncoderModel.from_pretrained, []
    monkeypatch.setattr(
        published.T5EncoderModel, 'from_pretrained', lambda *args, **kwargs:
        given.append(kwargs) or load(*args, **kwargs))
    _, encoder = null_prompt._read(folder, 1, 'PixArt')
    assert encoder.dtype == read
    assert given[0][key] == stored and len({'dtype', 'torch_dtype'} & {*given[0]}) == 1


def test_variants_beside_the_weights_say_nothing_of_them(base, tmp_path):
    """What diffusers reads is the .bin, in float32."""
    folder = shutil.copytree(base('flux')[0], tmp_path / 'flux')
    path = folder / f'transformer/{pretrained.WEIGHTS}.safetensors'
    weights = load_file(path)
    torch.save(weights, path.with_suffix('.bin'))
    save_file({key: value.half() for key, value in weights.items()},
              path.with_suffix('.fp16.safetensors'), metadata=dict(format='pt'))
    path.unlink()
    net = build('flux')
    net.sd_folder = str(folder)
    net.init_weights()
    for key, value in weights.items():
        assert torch.equal(core(net).state_dict()[key], value), key


@pytest.mark.parametrize('name', ['sd3', 'sdxl'])
def test_large_folders_come_in_shards(name, base, tmp_path):
    folder = shutil.copytree(base(name)[0], tmp_path / name)
    part = 'unet' if name == 'sdxl' else 'transformer'
    shutil.rmtree(folder / part)
    torch.manual_seed(0)
    source = network_of(name)
    source.save_pretrained(folder / part, max_shard_size='40KB')
    assert len([*(folder / part).glob('*.safetensors')]) > 1
    net = build(name)
    net.sd_folder = str(folder)
    net.init_weights()
    for key, value in source.state_dict().items():
        assert torch.equal(core(net).state_dict()[key], value), key
    # And by names and shapes alone.
    with headers_alone():
        MODELS.build(parts_of(name, folder)[0]).init_weights()
