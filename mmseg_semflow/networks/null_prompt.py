"""The empty prompt as each base encodes it, read once before training; and words.

The functions ``of_...`` take a folder in diffusers' layout, the number of tokens (None:
that of the tokenizer) and the name of the base for errors. They return what the
network receives: ``prompt``, (1, L, D), and where the base has one ``pooled``,
(1, P), in float32.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

from mmseg_semflow.files import read_json

from .pretrained import (
    PathLike,
    bounded_weights,
    check_folder,
    dtype_of_files,
    name_folder,
    naming_part,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Null = Dict[str, Tensor]
# In it a folder says which pipeline it is of, and how that is set.
INDEX = 'model_index.json'


def _read(folder: PathLike, number: int,
          base: str) -> Tuple['PreTrainedTokenizerBase', nn.Module]:
    """Read the tokenizer and the text encoder of a number, 1, 2 or 3."""
    import transformers
    suffix = '' if number == 1 else f'_{number}'
    names = [f'tokenizer{suffix}', f'text_encoder{suffix}']
    check_folder(folder, *names, base=base)
    config = read_json(Path(folder) / names[1] / 'config.json')
    # That of the files: by itself version 5 takes what the config says, 4 float32.
    dtype = dtype_of_files(folder, names[1], 'model')
    key = 'torch_dtype' if transformers.__version__[:2] == '4.' else 'dtype'
    with naming_part(folder, names[1]), bounded_weights(folder, names[1]):
        name, = config['architectures']
        encoder, keys = getattr(transformers, name).from_pretrained(
            folder, subfolder=names[1], local_files_only=True,
            output_loading_info=True, **{key: dtype})
    # transformers leaves these at random values.
    if keys['missing_keys']:
        raise ValueError(
            f'{name_folder(folder, names[1])} lacks {len(keys["missing_keys"])} of '
            f'its weights, for example {min(keys["missing_keys"])}')
    tokens = 'AutoProcessor' if name.startswith('Mistral3') else 'AutoTokenizer'
    with naming_part(folder, names[0]):
        tokenizer = getattr(transformers, tokens).from_pretrained(
            folder, subfolder=names[0], local_files_only=True)
    # T5 overflows in float16.
    return tokenizer, encoder.float() if encoder.dtype == torch.float16 else encoder


def _encode(folder: PathLike, number: int, length: Optional[int], base: str) -> Any:
    """Encode "" padded to a length, all of whose tokens are seen."""
    tokenizer, encoder = _read(folder, number, base)
    tokens = tokenizer(
        '',
        padding='max_length',
        max_length=length or tokenizer.model_max_length,
        truncation=True,
        return_tensors='pt')
    return encoder(tokens.input_ids, output_hidden_states=True)


def of_sd(folder: PathLike, length: Optional[int] = None, base: str = '') -> Null:
    """Encode it for Stable Diffusion 1 and 2: CLIP's last states."""
    return dict(prompt=_encode(folder, 1, length, base).last_hidden_state)


def of_sdxl(folder: PathLike, length: Optional[int] = None, base: str = '') -> Null:
    """Encode it for SDXL: the last states but one of both, pooled by the second.

    Where the folder has ``force_zeros_for_empty_prompt``, as the published one, it is
    zeros, which the network was trained with, as in diffusers' pipeline.
    """
    zeros = _zeroes_empty_prompt(folder)
    first, second = (_encode(folder, number, length, base) for number in (1, 2))
    null = dict(
        prompt=torch.cat([out.hidden_states[-2] for out in (first, second)], -1),
        pooled=second.text_embeds)
    if zeros:
        return {key: torch.zeros_like(value) for key, value in null.items()}
    return null


def _zeroes_empty_prompt(folder: PathLike) -> bool:
    path = Path(folder) / INDEX
    if not path.is_file():
        raise FileNotFoundError(
            f'{path} is not a file: the pipeline of SDXL says in it whether the empty '
            'prompt is zeros (force_zeros_for_empty_prompt)')
    # By default as in the pipeline.
    found = read_json(path).get('force_zeros_for_empty_prompt', True)
    if not isinstance(found, bool):
        raise ValueError(f'force_zeros_for_empty_prompt of {path} must be true or '
                         f'false, but got {found!r}')
    return found


def of_sd3(folder: PathLike, length: Optional[int] = None, base: str = '') -> Null:
    """Encode it for Stable Diffusion 3: that of SDXL, then T5's tokens behind.

    ``length`` is that of T5; CLIP's stays its own.
    """
    first, second = (_encode(folder, number, None, base) for number in (1, 2))
    of_clip = torch.cat([out.hidden_states[-2] for out in (first, second)], -1)
    of_t5 = _encode(folder, 3, length, base).last_hidden_state
    of_clip = nn.functional.pad(of_clip, (0, of_t5.shape[-1] - of_clip.shape[-1]))
    return dict(
        prompt=torch.cat([of_clip, of_t5.to(of_clip)], 1),
        pooled=torch.cat([first.text_embeds, second.text_embeds], -1))


def of_flux(folder: PathLike, length: Optional[int] = None, base: str = '') -> Null:
    """Encode it for FLUX.1: T5's states, pooled by CLIP."""
    return dict(
        prompt=_encode(folder, 2, length, base).last_hidden_state,
        pooled=_encode(folder, 1, None, base).pooler_output)


def of_flux2(folder: PathLike, length: Optional[int] = None, base: str = '') -> Null:
    """Encode it for FLUX.2: three layers of a language model, in its template."""
    import diffusers
    tokenizer, encoder = _read(folder, 1, base)
    # The templates are part of diffusers' pipelines.
    encode = (
        diffusers.Flux2Pipeline._get_mistral_3_small_prompt_embeds
        if type(encoder).__name__.startswith('Mistral3') else
        diffusers.Flux2KleinPipeline._get_qwen3_prompt_embeds)
    return dict(
        prompt=encode(encoder, tokenizer, '', max_sequence_length=length or 512))


def of_unmasked(folder: PathLike, length: Optional[int] = None, base: str = '') -> Null:
    """Encode it for SANA and PixArt, which see no padding: what is left, a token.

    ``length`` must be the number of tokens that "" has by itself, 1.
    """
    tokenizer, encoder = _read(folder, 1, base)
    tokens = tokenizer('', return_tensors='pt')
    if length not in (None, tokens.input_ids.shape[1]):
        raise ValueError(
            f'{folder}/tokenizer makes {tokens.input_ids.shape[1]} tokens of the '
            f'empty prompt, but this config has prompt_length={length}: they must '
            'be the same')
    return dict(
        prompt=encoder(tokens.input_ids,
                       attention_mask=tokens.attention_mask).last_hidden_state)


@torch.no_grad()
def fill_null(buffers: Null, folder: PathLike, base: str, encode: Any,
              length: Optional[int]) -> None:
    """Fill buffers with the empty prompt of a folder.

    Args:
        buffers (Dict[str, Tensor]): By the keys that ``encode`` returns.
        folder (str | Path): Folder with the tokenizers and text encoders.
        base (str): The base that the config is for, for errors.
        encode (Callable): One of the functions of this module.
        length (int, optional): Number of tokens.

    Raises:
        FileNotFoundError: If the folder lacks one of them.
        ValueError: If they are damaged or do not fit the buffers.
    """
    # Read even by headers_alone().
    with unset_fake_temporarily(), naming_part(folder, 'text_encoder'):
        found = encode(folder, length, base)
    for key, buffer in buffers.items():
        if found[key].shape != buffer.shape:
            raise ValueError(
                f'the null {key} of {name_folder(folder, "text_encoder")} has '
                f'shape {tuple(found[key].shape)}, but this config'
                + f', which is for {base},' * bool(base)
                + f' wants {tuple(buffer.shape)}')
        buffer.copy_(found[key])


@torch.no_grad()
def encode_prompts(folder: PathLike,
                   texts: Sequence[str]) -> Tuple[Tensor, Tensor]:
    """Encode texts with the text encoder of a diffusers folder.

    Args:
        folder (str | Path): Folder with ``tokenizer/`` and
            ``text_encoder/``.
        texts (Sequence[str]): The texts; '' is the null prompt.

    Returns:
        Tuple[Tensor, Tensor]: Their embeddings, padded to the encoder's length,
        float32, shape (N, 77, 768) for Stable Diffusion 1.5; and how many tokens
        each has, its beginning and its end included, shape (N, ).

    Raises:
        FileNotFoundError: If the folder is not there.
        ValueError: If a text is too long.
    """
    # Small enough to be read even by headers_alone().
    with unset_fake_temporarily():
        tokenizer, text_encoder = _read(folder, 1, '')
        length = tokenizer.model_max_length
        lengths = [len(tokenizer(text).input_ids) for text in texts]
        for text, count in zip(texts, lengths, strict=True):
            if count > length:
                raise ValueError(
                    f'{text!r} has {count} tokens, but the text encoder of {folder} '
                    f'reads {length}')
        tokens = tokenizer(
            list(texts),
            padding='max_length',
            max_length=length,
            return_tensors='pt')
        return text_encoder(tokens.input_ids)[0].float(), torch.tensor(lengths)
