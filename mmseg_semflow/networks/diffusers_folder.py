"""Conversion of weights to and from diffusers' folders."""

import json
from pathlib import Path
from typing import Dict, Sequence

import torch
from diffusers import (
    AutoencoderKL,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .pretrained import (
    PathLike,
    check_config,
    load_matching,
    name_file,
    read_weights,
)

# The subfolders of a diffusers folder, and which part of a model each holds.
PARTS = dict(
    unet='network.unet', transformer='network.transformer', vae='autoencoder.vae')
# Beside them: the null prompt, and what else a checkpoint of ours knows.
REST = 'semflow.safetensors'
WEIGHTS = 'diffusion_pytorch_model.safetensors'
TEXT_ENCODER = 'cond_stage_model.transformer.'
# CLIP's width of an attention head, which no shape of its weights shows.
HEAD_WIDTH = 64


def single_file_to_folder(path: PathLike, folder: PathLike, unet: dict,
                          vae: dict, vocabulary: Dict[str, int],
                          merges: Sequence[str]) -> None:
    """Convert a single-file checkpoint of Stable Diffusion 1 to a folder.

    Where the file has averaged weights of the UNet beside the last ones, as
    ``v1-5-pruned`` has, they are taken: those of the published folder.

    Args:
        path (str | Path): The file with the key names of CompVis' code,
            safetensors or pickled.
        folder (str | Path): The folder to write, in diffusers' layout.
        unet (dict): Arguments of diffusers' ``UNet2DConditionModel``.
        vae (dict): Arguments of diffusers' ``AutoencoderKL``.
        vocabulary (Dict[str, int]): CLIP's tokens and their numbers.
        merges (Sequence[str]): CLIP's merges, each two tokens and a space.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be read or holds something else.
    """
    state_dict = read_weights(path)
    source = name_file(path, state_dict)
    for prefix in ('model.diffusion_model.', 'first_stage_model.',
                   f'{TEXT_ENCODER}text_model.'):
        if not any(key.startswith(prefix) for key in state_dict):
            raise ValueError(
                f'{source} is no single-file checkpoint of Stable '
                f'Diffusion 1: no key begins with {prefix!r}')
    with torch.device('meta'):
        # The pipeline wants a sample_size, our configs need none.
        parts = dict(
            unet=UNet2DConditionModel(**{'sample_size': 64, **unet}),
            vae=AutoencoderKL(**vae))
    try:
        converted = dict(
            unet=convert_ldm_unet_checkpoint(
                state_dict, parts['unet'].config, extract_ema=True),
            vae=convert_ldm_vae_checkpoint(state_dict, parts['vae'].config))
    # Of keys that are missing, and of names and shapes that say nothing.
    except Exception as error:
        raise ValueError(
            f'{source} is no whole single-file checkpoint of Stable Diffusion 1: '
            f'{error!r}') from error
    for name, part in parts.items():
        # The converter leaves None for what it looks for in vain.
        weights = {
            key: value.contiguous()
            for key, value in converted[name].items() if value is not None
        }
        load_matching(part, weights, f'{source}: its {name}', assign=True)
    text_encoder = _text_encoder(state_dict, source)
    width = text_encoder.config.hidden_size
    if width != parts['unet'].config.cross_attention_dim:
        raise ValueError(
            f'{source}: its text encoder is {width} wide, but the '
            'cross_attention_dim of the unet is '
            f'{parts["unet"].config.cross_attention_dim}: they must be '
            'the same')
    if text_encoder.config.vocab_size != len(vocabulary):
        raise ValueError(
            f'{source}: its text encoder knows '
            f"{text_encoder.config.vocab_size} tokens, but CLIP's "
            f'tokenizer has {len(vocabulary)}')
    StableDiffusionPipeline(
        **parts,
        text_encoder=text_encoder,
        tokenizer=_tokenizer(Path(folder) / 'tokenizer', vocabulary, merges),
        scheduler=PNDMScheduler(
            beta_schedule='scaled_linear',
            beta_start=0.00085,
            beta_end=0.012,
            skip_prk_steps=True,
            steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False).save_pretrained(folder)


def _text_encoder(state_dict: Dict[str, Tensor], source: str) -> CLIPTextModel:
    weights = {
        key.removeprefix(TEXT_ENCODER): value.contiguous()
        for key, value in state_dict.items()
        if key.startswith(TEXT_ENCODER) and 'position_ids' not in key
    }
    shapes = {key: value.shape for key, value in weights.items()}
    try:
        embeddings = 'text_model.embeddings'
        words, width = shapes[f'{embeddings}.token_embedding.weight']
        length, _ = shapes[f'{embeddings}.position_embedding.weight']
        inner, _ = shapes['text_model.encoder.layers.0.mlp.fc1.weight']
    except KeyError as error:
        raise ValueError(f'{source}: its text encoder has no {error}') from error
    except ValueError as error:
        raise ValueError(
            f'{source}: embeddings and fc1.weight of its text encoder must be '
            f'matrices, but {error}') from error
    if width % HEAD_WIDTH or not width:
        raise ValueError(f'{source}: its text encoder must have a width that is a '
                         f'multiple of {HEAD_WIDTH}, but got {width}')
    with torch.device('meta'):
        model = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=words,
                hidden_size=width,
                intermediate_size=inner,
                projection_dim=width,
                max_position_embeddings=length,
                num_hidden_layers=sum('.mlp.fc1.weight' in k for k in shapes),
                num_attention_heads=width // HEAD_WIDTH))
    if not any(key.startswith('text_model.') for key in model.state_dict()):
        # transformers >= 5
        weights = {
            key.removeprefix('text_model.'): value
            for key, value in weights.items()
        }
    load_matching(model, weights, f'{source}: its text encoder', assign=True)
    return model


def _tokenizer(folder: Path, vocabulary: Dict[str, int],
               merges: Sequence[str]) -> CLIPTokenizer:
    folder.mkdir(parents=True)
    start, end = '<|startoftext|>', '<|endoftext|>'
    (folder / 'vocab.json').write_text(
        json.dumps(vocabulary, ensure_ascii=False), encoding='utf-8')
    (folder / 'merges.txt').write_text(
        '\n'.join(['#version: 0.2', *merges, '']), encoding='utf-8')
    (folder / 'tokenizer_config.json').write_text(
        json.dumps(
            dict(
                tokenizer_class='CLIPTokenizer',
                model_max_length=77,
                bos_token=start,
                eos_token=end,
                pad_token=end,
                unk_token=end)))
    return CLIPTokenizer.from_pretrained(folder)


def model_to_folder(model: nn.Module, folder: PathLike) -> None:
    """Write a model as a diffusers folder.

    Args:
        model (nn.Module): A :class:`SemFlowModel`. Its tensors are laid out
            anew in memory, and an adapter is merged into its base.
        folder (str | Path): The folder to write: ``unet/`` or
            ``transformer/``, ``vae/`` if the autoencoder is one of diffusers, and
            ``semflow.safetensors`` with the null prompt, the codec and what
            else its state dict has.
    """
    if hasattr(model.network, 'merge_lora'):
        model.network.merge_lora()
    # safetensors refuses channels-last.
    model.to(memory_format=torch.contiguous_format)
    for name, part in _parts(model).items():
        # In one file, of whatever size, as it is read back.
        part.save_pretrained(Path(folder) / name, max_shard_size='1TB')
    inside = tuple(f'{path}.' for path in PARTS.values())
    rest = {
        key: value
        for key, value in model.state_dict().items()
        if not key.startswith(inside)
    }
    save_file(rest, Path(folder) / REST, metadata=dict(format='pt'))


def folder_to_model(folder: PathLike, model: nn.Module) -> None:
    """Fill a model from a folder that :func:`model_to_folder` wrote.

    The model takes over the tensors with their dtype.

    Args:
        folder (str | Path): The folder.
        model (nn.Module): The model to fill.

    Raises:
        FileNotFoundError: If the folder or a file of it is not there.
        ValueError: If it holds another architecture or codec.
    """
    state_dict = read_weights(Path(folder) / REST)
    for name, part in _parts(model).items():
        check_config(part, folder, name)
        weights = read_weights(Path(folder) / name / WEIGHTS)
        state_dict |= {f'{PARTS[name]}.{k}': v for k, v in weights.items()}
    fill_model(model, state_dict, folder)


def fill_model(model: nn.Module, state_dict: Dict[str, Tensor],
               source: PathLike) -> None:
    """Load a state dict strictly; the model takes over the tensors.

    Args:
        model (nn.Module): The model to fill.
        state_dict (Dict[str, Tensor]): Its weights.
        source (str | Path): Where they come from, for the error.

    Raises:
        ValueError: If they are of another architecture or codec.
    """
    try:
        model.load_state_dict(state_dict, assign=True)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f'{source} does not fit the config: {error}') from error


def _parts(model: nn.Module) -> Dict[str, nn.Module]:
    modules = dict(model.named_modules())
    return {
        name: modules[path]
        for name, path in PARTS.items() if path in modules
    }
