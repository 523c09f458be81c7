"""The models of all bases at full size, without data, as diffusers builds them."""

import re

import diffusers
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from shipped import CONFIGS, ROOT

import mmseg_semflow.networks  # noqa: F401
from mmseg_semflow.apis.costs import estimate_training_memory

PAGE = (ROOT / 'docs/bases.md').read_text()
KL = dict(
    _class_name='AutoencoderKL', act_fn='silu', in_channels=3, out_channels=3,
    block_out_channels=[128, 256, 512, 512], layers_per_block=2, norm_num_groups=32,
    down_block_types=['DownEncoderBlock2D'] * 4,
    up_block_types=['UpDecoderBlock2D'] * 4)
KL16 = dict(
    KL, latent_channels=16, use_quant_conv=False, use_post_quant_conv=False,
    mid_block_add_attention=True, force_upcast=True, sample_size=1024)
KL_SD = dict(KL, latent_channels=4, scaling_factor=0.18215)
KL_SDXL = dict(KL, latent_channels=4, scaling_factor=0.13025, force_upcast=True)
SD21_UNET = dict(
    _class_name='UNet2DConditionModel', act_fn='silu', in_channels=4, out_channels=4,
    attention_head_dim=[5, 10, 20, 20], block_out_channels=[320, 640, 1280, 1280],
    center_input_sample=False, cross_attention_dim=1024, downsample_padding=1,
    down_block_types=['CrossAttnDownBlock2D'] * 3 + ['DownBlock2D'],
    dual_cross_attention=False, flip_sin_to_cos=True, freq_shift=0,
    layers_per_block=2, mid_block_scale_factor=1, norm_eps=1e-5, norm_num_groups=32,
    num_class_embeds=None, only_cross_attention=False, sample_size=96,
    up_block_types=['UpBlock2D'] + ['CrossAttnUpBlock2D'] * 3,
    use_linear_projection=True)
# `config.json` of network and autoencoder as they are published, and the shapes of
# the null condition.
PUBLISHED = {
    'sd21': (SD21_UNET, dict(KL_SD, sample_size=768),
             dict(null_prompt=(1, 77, 1024))),
    'sdxl': (dict(
        _class_name='UNet2DConditionModel', act_fn='silu', sample_size=128,
        addition_embed_type='text_time', addition_embed_type_num_heads=64,
        addition_time_embed_dim=256, attention_head_dim=[5, 10, 20],
        block_out_channels=[320, 640, 1280], center_input_sample=False,
        class_embed_type=None, class_embeddings_concat=False, conv_in_kernel=3,
        conv_out_kernel=3, cross_attention_dim=2048, in_channels=4, out_channels=4,
        down_block_types=['DownBlock2D'] + ['CrossAttnDownBlock2D'] * 2,
        downsample_padding=1, dual_cross_attention=False, flip_sin_to_cos=True,
        freq_shift=0, layers_per_block=2, mid_block_scale_factor=1,
        mid_block_type='UNetMidBlock2DCrossAttn', norm_eps=1e-5, norm_num_groups=32,
        projection_class_embeddings_input_dim=2816, resnet_time_scale_shift='default',
        time_embedding_type='positional', transformer_layers_per_block=[1, 2, 10],
        up_block_types=['CrossAttnUpBlock2D'] * 2 + ['UpBlock2D'],
        use_linear_projection=True), KL_SDXL,
             dict(null_prompt=(1, 77, 2048), null_pooled=(1, 1280), sizes=(1, 6))),
    'sd35-medium': (dict(
        _class_name='SD3Transformer2DModel', attention_head_dim=64,
        caption_projection_dim=1536, dual_attention_layers=list(range(13)),
        in_channels=16, joint_attention_dim=4096, num_attention_heads=24,
        num_layers=24, out_channels=16, patch_size=2, pooled_projection_dim=2048,
        pos_embed_max_size=384, qk_norm='rms_norm', sample_size=128),
                    dict(KL16, scaling_factor=1.5305, shift_factor=0.0609),
                    dict(null_prompt=(1, 77 + 256, 4096), null_pooled=(1, 2048))),
    'flux1-dev': (dict(
        _class_name='FluxTransformer2DModel', attention_head_dim=128,
        guidance_embeds=True, in_channels=64, joint_attention_dim=4096,
        num_attention_heads=24, num_layers=19, num_single_layers=38, patch_size=1,
        pooled_projection_dim=768),
                  dict(KL16, scaling_factor=0.3611, shift_factor=0.1159),
                  dict(null_prompt=(1, 512, 4096), null_pooled=(1, 768))),
    'flux2-klein': (dict(
        _class_name='Flux2Transformer2DModel', attention_head_dim=128,
        axes_dims_rope=[32, 32, 32, 32], eps=1e-6, guidance_embeds=False,
        in_channels=128, joint_attention_dim=7680, mlp_ratio=3.0,
        num_attention_heads=24, num_layers=5, num_single_layers=20,
        out_channels=None, patch_size=1, rope_theta=2000,
        timestep_guidance_channels=256),
                    dict(_class_name='AutoencoderKLFlux2', act_fn='silu',
                         batch_norm_eps=1e-4, batch_norm_momentum=0.1,
                         block_out_channels=[128, 256, 512, 512],
                         down_block_types=['DownEncoderBlock2D'] * 4,
                         up_block_types=['UpDecoderBlock2D'] * 4, in_channels=3,
                         out_channels=3, latent_channels=32, layers_per_block=2,
                         mid_block_add_attention=True, norm_num_groups=32,
                         patch_size=[2, 2], sample_size=1024, use_quant_conv=True,
                         use_post_quant_conv=True),
                    dict(null_prompt=(1, 512, 7680))),
    'sana': (dict(
        _class_name='SanaTransformer2DModel', attention_bias=False,
        attention_head_dim=32, caption_channels=2304, cross_attention_dim=2240,
        cross_attention_head_dim=112, dropout=0.0, guidance_embeds=False,
        guidance_embeds_scale=0.1, in_channels=32, interpolation_scale=None,
        mlp_ratio=2.5, norm_elementwise_affine=False, norm_eps=1e-6,
        num_attention_heads=70, num_cross_attention_heads=20, num_layers=20,
        out_channels=32, patch_size=1, qk_norm='rms_norm_across_heads',
        sample_size=32, timestep_scale=1.0),
             dict(_class_name='AutoencoderDC', attention_head_dim=32, in_channels=3,
                  decoder_act_fns='silu', decoder_norm_types='rms_norm',
                  decoder_block_out_channels=[128, 256, 512, 512, 1024, 1024],
                  decoder_block_types=['ResBlock'] * 3 + ['EfficientViTBlock'] * 3,
                  decoder_layers_per_block=[3] * 6,
                  decoder_qkv_multiscales=[[], [], [], [5], [5], [5]],
                  downsample_block_type='Conv', upsample_block_type='interpolate',
                  encoder_block_out_channels=[128, 256, 512, 512, 1024, 1024],
                  encoder_block_types=['ResBlock'] * 3 + ['EfficientViTBlock'] * 3,
                  encoder_layers_per_block=[2, 2, 2, 3, 3, 3],
                  encoder_qkv_multiscales=[[], [], [], [5], [5], [5]],
                  latent_channels=32, scaling_factor=0.41407),
             dict(null_prompt=(1, 1, 2304))),
    'pixart-sigma': (dict(
        _class_name='PixArtTransformer2DModel', activation_fn='gelu-approximate',
        attention_bias=True, attention_head_dim=72, caption_channels=4096,
        cross_attention_dim=1152, dropout=0.0, in_channels=4, interpolation_scale=2,
        norm_elementwise_affine=False, norm_eps=1e-6, norm_num_groups=32,
        norm_type='ada_norm_single', num_attention_heads=16,
        num_embeds_ada_norm=1000, num_layers=28, out_channels=8, patch_size=2,
        sample_size=128, upcast_attention=False, use_additional_conditions=False),
                     KL_SDXL, dict(null_prompt=(1, 1, 4096))),
    'dit': (dict(
        _class_name='DiTTransformer2DModel', activation_fn='gelu-approximate',
        attention_bias=True, attention_head_dim=72, dropout=0.0, in_channels=4,
        norm_elementwise_affine=False, norm_num_groups=32, norm_type='ada_norm_zero',
        num_attention_heads=16, num_embeds_ada_norm=1000, num_layers=28,
        out_channels=8, patch_size=2, sample_size=64, upcast_attention=False),
            dict(KL_SD, sample_size=256), {}),
}


def read(name):
    return Config.fromfile(CONFIGS / f'_base_/models/semflow_{name}.py').model.semflow


def test_every_base_is_here():
    files = {path.stem for path in (CONFIGS / '_base_/models').glob('semflow_*.py')}
    ours = {'semflow_tiny', 'semflow_taef2', 'semflow_sd15', 'semflow_sd15_text_lora'}
    assert files - ours == {f'semflow_{name}' for name in PUBLISHED}


@pytest.mark.parametrize('name', PUBLISHED)
def test_names_and_shapes_are_those_of_the_published_config(name):
    network, autoencoder, null = PUBLISHED[name]
    semflow = read(name)
    with torch.device('meta'):
        ours = MODELS.build(semflow.network), MODELS.build(semflow.autoencoder)
        published = [
            getattr(diffusers, config['_class_name']).from_config(config)
            for config in (network, autoencoder)
        ]
    core = getattr(ours[0], 'unet', None) or ours[0].transformer
    for own, theirs in zip((core, ours[1].vae), published, strict=True):
        shapes, expected = (
            {key: tuple(value.shape) for key, value in part.state_dict().items()}
            for part in (own, theirs))
        assert shapes == expected
    assert {
        key: tuple(value.shape) for key, value in ours[0].named_buffers()
        if '.' not in key
    } == null
    # The page tells both, and the latents.
    row, = (line for line in PAGE.splitlines() if f'`semflow_{name}.py`' in line)
    cells = [cell.strip() for cell in row.split('|')[1:-1]]
    counts = [sum(p.numel() for p in part.parameters()) for part in ours]
    assert cells[2:5] == [
        f'{counts[0] / 1e6:.0f} M', f'{counts[1] / 1e6:.0f} M',
        f'{ours[1].latent_channels}, {ours[1].factor}'
    ]
    assert ours[0].in_channels == ours[0].out_channels == ours[1].latent_channels


ADAPTERS = re.findall(
    r'`semflow_cityscapes_(\w+)\.py` \| (\d+) M \| (\d+) \| (\d+) GB', PAGE)


def test_the_page_tells_every_recipe():
    assert [row[0] for row in ADAPTERS] == ['flux', 'flux2']
    recipes = {
        path.stem for path in CONFIGS.glob('semflow_cityscapes_*.py')
        if '_sd15_' not in path.read_text()}
    table = PAGE.split('## What was run')[1]
    assert {*re.findall(r'`(\w+)\.py`', table)} == recipes | {'semflow_cityscapes'}


@pytest.mark.full_size
@pytest.mark.parametrize('name, adapter, batch, total', ADAPTERS)
def test_memory_of_adapters(name, adapter, batch, total):
    pytest.importorskip('peft')
    cfg = Config.fromfile(CONFIGS / f'semflow_cityscapes_{name}.py')
    found = estimate_training_memory(cfg)
    assert f'{found["gradients"] / 4e6:.0f}' == adapter
    assert cfg.train_dataloader.batch_size == int(batch)
    assert f'{found["total"] / 1e9:.0f}' == total


@pytest.mark.parametrize('name', PUBLISHED)
def test_the_recipe_for_cityscapes_takes_every_base(name):
    """As the page says: by an exchange of one line."""
    recipe = Config.fromfile(CONFIGS / 'semflow_cityscapes_sd35.py')
    text = (CONFIGS / 'semflow/semflow_sd35-medium_8xb32-8k_cityscapes-512x1024.py'
            ).read_text()
    cfg = Config.fromstring(text.replace('sd35-medium.py', f'{name}.py').replace(
        "'../", f"'{CONFIGS}/"), '.py')
    assert cfg.model.semflow.pop('codec') == recipe.model.semflow.codec
    assert cfg.model.semflow == read(name)
    assert cfg.train_dataloader == recipe.train_dataloader


def test_fsdp_for_a_transformer():
    """The page's lines: as ours for the UNet but for what is wrapped."""
    text = PAGE.split('```python\n')[1].split('```')[0]
    cfg = Config.fromstring(text.replace("'./", f"'{ROOT}/configs/"), '.py')
    ours = Config.fromfile(CONFIGS / 'semflow_cityscapes_fsdp.py')
    assert cfg.strategy.model_wrapper.pop('auto_wrap_policy') == \
        'wrap_transformer_blocks'
    assert ours.strategy.model_wrapper.pop('auto_wrap_policy') == 'wrap_unet_blocks'
    assert cfg.strategy == ours.strategy and cfg.runner_type == ours.runner_type
    assert 'SynthesisEvalHook' not in {hook.type for hook in cfg.custom_hooks}
    assert cfg.model.semflow.network.type == 'VelocityTransformer'
