"""Tiny folders of all bases, in the layout in which they are published.

diffusers' own pipelines write them: `model_index.json`, the network, the autoencoder,
tokenizers, text encoders and the scheduler's config.
"""

import copy

import diffusers
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from tiny import UNET, VAE, write_tokenizer

SDXL_UNET = dict(
    UNET,
    cross_attention_dim=32,
    attention_head_dim=(2, 4),
    use_linear_projection=True,
    addition_embed_type='text_time',
    addition_time_embed_dim=4,
    projection_class_embeddings_input_dim=40)
KL16 = dict(
    VAE,
    latent_channels=16,
    scaling_factor=1.5305,
    shift_factor=0.0609,
    use_quant_conv=False,
    use_post_quant_conv=False)
KL_FLUX2 = dict({k: v for k, v in VAE.items() if k != 'scaling_factor'},
                latent_channels=32)
DC = dict(
    latent_channels=32,
    attention_head_dim=4,
    encoder_block_types=('ResBlock', 'EfficientViTBlock'),
    decoder_block_types=('ResBlock', 'EfficientViTBlock'),
    encoder_block_out_channels=(8, 32),
    decoder_block_out_channels=(8, 32),
    encoder_layers_per_block=(1, 1),
    decoder_layers_per_block=(1, 1),
    encoder_qkv_multiscales=((), (3, )),
    decoder_qkv_multiscales=((), (3, )),
    upsample_block_type='interpolate',
    downsample_block_type='Conv',
    scaling_factor=0.41407)
SD3 = dict(
    type='SD3Transformer2DModel',
    sample_size=16,
    patch_size=2,
    in_channels=16,
    num_layers=2,
    attention_head_dim=8,
    num_attention_heads=2,
    joint_attention_dim=32,
    caption_projection_dim=16,
    pooled_projection_dim=32,
    out_channels=16,
    pos_embed_max_size=24,
    dual_attention_layers=(0, ),
    qk_norm='rms_norm')
FLUX = dict(
    type='FluxTransformer2DModel',
    in_channels=64,
    num_layers=1,
    num_single_layers=1,
    attention_head_dim=16,
    num_attention_heads=2,
    joint_attention_dim=32,
    pooled_projection_dim=16,
    guidance_embeds=True,
    axes_dims_rope=(4, 4, 8))
FLUX2 = dict(
    type='Flux2Transformer2DModel',
    in_channels=128,
    num_layers=1,
    num_single_layers=1,
    attention_head_dim=16,
    num_attention_heads=2,
    joint_attention_dim=48,
    guidance_embeds=False,
    axes_dims_rope=(4, 4, 4, 4))
SANA = dict(
    type='SanaTransformer2DModel',
    num_attention_heads=2,
    attention_head_dim=8,
    num_layers=2,
    num_cross_attention_heads=2,
    cross_attention_head_dim=8,
    cross_attention_dim=16,
    caption_channels=16,
    qk_norm='rms_norm_across_heads')
PIXART = dict(
    type='PixArtTransformer2DModel',
    num_attention_heads=2,
    attention_head_dim=12,
    num_layers=2,
    cross_attention_dim=24,
    sample_size=16,
    caption_channels=32,
    use_additional_conditions=False)
DIT = dict(
    type='DiTTransformer2DModel',
    num_attention_heads=2,
    attention_head_dim=12,
    out_channels=8,
    num_layers=2,
    sample_size=16)


def _network(**kwargs) -> dict:
    if 'unet' in kwargs:
        return dict(type='VelocityUNet', **kwargs)
    return dict(type='VelocityTransformer', **kwargs)


# Network and autoencoder of a config for each base.
PARTS = dict(
    sd21=(_network(unet=dict(UNET, attention_head_dim=(2, 4),
                             use_linear_projection=True)),
          dict(type='KLAutoencoder', vae=VAE)),
    sdxl=(_network(unet=SDXL_UNET, picture_size=(24, 32)),
          dict(type='KLAutoencoder', vae=dict(VAE, scaling_factor=0.13025))),
    sd3=(_network(transformer=SD3, prompt_length=7),
         dict(type='KLAutoencoder', vae=KL16)),
    flux=(_network(transformer=FLUX, prompt_length=6),
          dict(type='KLAutoencoder', vae=KL16)),
    flux2=(_network(transformer=FLUX2, prompt_length=9),
           dict(type='Flux2Autoencoder', vae=KL_FLUX2)),
    sana=(_network(transformer=SANA), dict(type='DCAutoencoder', vae=DC)),
    pixart=(_network(transformer=PIXART), dict(type='KLAutoencoder', vae=VAE)),
    dit=(_network(transformer=DIT), dict(type='KLAutoencoder', vae=VAE)))


def parts_of(name, folder=None, **kwargs) -> tuple:
    """Give configs of the network, with ``kwargs``, and of the autoencoder."""
    network, autoencoder = copy.deepcopy(PARTS[name])
    for part in (network, autoencoder):
        part['sd_folder'] = folder and str(folder)
    return dict(network, **kwargs), autoencoder


def of_class(name) -> tuple:
    """Give configs of both for a transformer's class."""
    return next(
        parts_of(base) for base, (network, _) in PARTS.items()
        if network.get('transformer', {}).get('type') == name)


def network_of(name):
    """Build diffusers' network of a base, random."""
    network = PARTS[name][0]
    if 'unet' in network:
        return diffusers.UNet2DConditionModel(**network['unet'], sample_size=8)
    arguments = dict(network['transformer'])
    return getattr(diffusers, arguments.pop('type'))(**arguments)


def _autoencoder(name):
    cfg = PARTS[name][1]
    kind = dict(
        KLAutoencoder='AutoencoderKL',
        Flux2Autoencoder='AutoencoderKLFlux2',
        DCAutoencoder='AutoencoderDC')[cfg['type']]
    vae = getattr(diffusers, kind)(**cfg['vae'])
    if hasattr(vae, 'bn'):
        vae.bn.running_mean.normal_()
        vae.bn.running_var.uniform_(0.5, 2)
    return vae


def _clip(kind='CLIPTextModel'):
    return getattr(transformers, kind)(
        transformers.CLIPTextConfig(
            vocab_size=514,
            hidden_size=16,
            intermediate_size=16,
            projection_dim=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            bos_token_id=512,
            eos_token_id=513))


def _words(template, chat=None):
    """Build a tokenizer of bytes and some words, with a template around them."""
    special = ['<pad>', '</s>', '<bos>']
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {word: i for i, word in enumerate([*special, *letters])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(word, vocabulary[word]) for word in special])
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token='<pad>', eos_token='</s>',
        bos_token='<bos>', padding_side='right', model_max_length=64)
    if chat:
        made.chat_template = chat
    return made


def _t5():
    return transformers.T5EncoderModel(
        transformers.T5Config(vocab_size=300, d_model=32, d_kv=8, d_ff=16, num_layers=2,
                 num_heads=2))


_SMALL = dict(
    vocab_size=300,
    hidden_size=16,
    intermediate_size=16,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8)


def pipeline_of(name, folder):
    """Build diffusers' pipeline of a base; its tokenizer of CLIP lies in a folder."""
    parts = dict(vae=_autoencoder(name))
    parts['unet' if 'unet' in PARTS[name][0] else 'transformer'] = network_of(name)
    if name in ('sd21', 'sdxl', 'sd3', 'flux'):
        write_tokenizer(folder)
        clip = transformers.AutoTokenizer.from_pretrained(folder)
    if name == 'sd21':
        return diffusers.StableDiffusionPipeline(
            **parts, tokenizer=clip, text_encoder=_clip(),
            scheduler=diffusers.DDIMScheduler(prediction_type='v_prediction'),
            safety_checker=None, feature_extractor=None,
            requires_safety_checker=False)
    if name == 'sdxl':
        return diffusers.StableDiffusionXLPipeline(
            **parts, tokenizer=clip, tokenizer_2=clip, text_encoder=_clip(),
            text_encoder_2=_clip('CLIPTextModelWithProjection'),
            scheduler=diffusers.EulerDiscreteScheduler())
    flow = diffusers.FlowMatchEulerDiscreteScheduler()
    if name == 'sd3':
        return diffusers.StableDiffusion3Pipeline(
            **parts, tokenizer=clip, tokenizer_2=clip, tokenizer_3=_words('$A </s>'),
            text_encoder=_clip('CLIPTextModelWithProjection'),
            text_encoder_2=_clip('CLIPTextModelWithProjection'),
            text_encoder_3=_t5(), scheduler=flow)
    if name == 'flux':
        return diffusers.FluxPipeline(
            **parts, tokenizer=clip, tokenizer_2=_words('$A </s>'),
            text_encoder=_clip(), text_encoder_2=_t5(), scheduler=flow)
    if name == 'flux2':
        return diffusers.Flux2KleinPipeline(
            **parts, scheduler=flow,
            tokenizer=_words('$A', "{{ '<bos>' + messages[0]['content'] + 'a' }}"),
            text_encoder=transformers.Qwen3ForCausalLM(
                transformers.Qwen3Config(num_hidden_layers=28, **_SMALL)))
    if name == 'sana':
        return diffusers.SanaPipeline(
            **parts, scheduler=flow, tokenizer=_words('<bos> $A'),
            text_encoder=transformers.Gemma2Model(
                transformers.Gemma2Config(num_hidden_layers=2, **_SMALL)))
    if name == 'pixart':
        return diffusers.PixArtSigmaPipeline(
            **parts, tokenizer=_words('$A </s>'), text_encoder=_t5(),
            scheduler=diffusers.DPMSolverMultistepScheduler())
    return diffusers.DiTPipeline(**parts, scheduler=diffusers.DDIMScheduler())


def write_base(name, folder):
    """Write the folder of a base and give the pipeline that wrote it."""
    torch.manual_seed(0)
    pipeline = pipeline_of(name, folder / f'{name}_clip')
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    pipeline.save_pretrained(folder / name)
    return pipeline
