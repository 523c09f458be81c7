"""Loading of Stable Diffusion folders and of UNet weight files."""

from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Dict, Iterator, Union

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    FakeTensorMode,
    unset_fake_temporarily,
)

from mmseg_semflow.files import read_json
from mmseg_semflow.safe_loading import load_from_local, weights_in

if TYPE_CHECKING:
    from diffusers import ModelMixin, UNet2DConditionModel

PathLike = Union[str, Path]
# Versions of Stable Diffusion by the width of the prompt that the UNet reads.
VERSIONS = {
    768: 'Stable Diffusion 1',
    1024: 'Stable Diffusion 2',
    1280: 'the refiner of SDXL',
    2048: 'SDXL'
}
# Settings that two networks must share: they change what the weights mean but
# not their shapes, or tell the version.
SETTINGS = dict(
    unet=('cross_attention_dim', 'attention_head_dim'),
    vae=('scaling_factor', 'shift_factor'))
# The beginning of the names that diffusers gives to files of weights.
WEIGHTS = 'diffusion_pytorch_model'


def _version_of_folder(folder: PathLike) -> str:
    unet, transformer = (
        Path(folder) / name / 'config.json' for name in ('unet', 'transformer'))
    # It stands in errors, and raises none.
    with suppress(ValueError):
        if unet.is_file():
            width = read_json(unet).get('cross_attention_dim')
            return VERSIONS.get(width, '') if isinstance(width, int) else ''
        if transformer.is_file():
            name = str(read_json(transformer).get('_class_name', ''))
            return 'Stable Diffusion 3' if name.startswith('SD3') else name
    return ''


def _version_of_keys(state_dict: Dict[str, Tensor]) -> str:
    for key, value in state_dict.items():
        if key.endswith('attn2.to_k.weight'):
            return VERSIONS.get(value.shape[-1], '') if value.ndim else ''
        if 'joint_blocks.' in key or 'attn.add_k_proj.' in key:
            return 'Stable Diffusion 3'
    return ''


def name_folder(folder: PathLike, subfolder: str) -> str:
    """Name a part of a diffusers folder, with the version that it holds."""
    version = _version_of_folder(folder)
    return f'{folder}/{subfolder}' + f' ({version})' * bool(version)


def name_file(path: PathLike, state_dict: Dict[str, Tensor]) -> str:
    """Name a file of weights, with the version that its keys tell."""
    version = _version_of_keys(state_dict)
    return str(path) + f' ({version})' * bool(version)


def check_folder(folder: PathLike, *subfolders: str) -> None:
    """Raise a FileNotFoundError if parts of a diffusers folder are missing.

    Args:
        folder (str | Path): A Stable Diffusion folder in diffusers' layout.
        *subfolders (str): The subfolders that are needed.
    """
    for path in (Path(folder), *(Path(folder) / name for name in subfolders)):
        if not path.is_dir():
            version = _version_of_folder(folder)
            found = f' ({folder} holds {version})' * bool(version)
            raise FileNotFoundError(
                f'{path} is not a folder{found}. Put Stable Diffusion 1.5 in '
                f"diffusers' layout at {folder}, with the subfolders "
                f'{", ".join(subfolders)} (for example by `huggingface-cli '
                'download stable-diffusion-v1-5/stable-diffusion-v1-5 '
                f'--local-dir {folder}`, or from a single file by '
                'tools/model_converters/ldm2diffusers.py), or set sd_folder '
                'to where it is')


def load_matching(module: nn.Module, state_dict: Dict[str, Tensor],
                  source: str, assign: bool = False) -> None:
    """Load a state dict into a module that must fit it exactly.

    Args:
        module (nn.Module): The module to fill.
        state_dict (Dict[str, Tensor]): Its weights.
        source (str): Where they come from, for the error.
        assign (bool): Whether the module takes over the tensors themselves,
            with their dtype. Defaults to False.

    Raises:
        ValueError: If keys are missing, left over or of another shape. The
            module keeps its weights then.
    """
    own = module.state_dict()
    wrong = [
        f'{key}: {problem}' for key, problem in [
            *((k, 'missing') for k in own.keys() - state_dict.keys()),
            *((k, 'unexpected') for k in state_dict.keys() - own.keys()),
            *((k, f'shape {tuple(state_dict[k].shape)} instead of '
               f'{tuple(own[k].shape)}')
              for k in own.keys() & state_dict.keys()
              if own[k].shape != state_dict[k].shape)
        ]
    ]
    if wrong:
        raise ValueError(
            f'{source} does not fit the {type(module).__name__} of this '
            f'config: {len(wrong)} of its keys differ, for example '
            f'{"; ".join(sorted(wrong)[:3])}')
    module.load_state_dict(state_dict, assign=assign)


def widen_ends(state_dict: Dict[str, Tensor],
               unet: 'UNet2DConditionModel') -> Dict[str, Tensor]:
    """Fit a UNet's weights to one that takes or returns two latents.

    The first convolution is repeated for the second latent and halved, so
    that its sum keeps its size (Marigold, Ke et al., CVPR 2024, Sec. 3.2);
    the last is repeated.

    Args:
        state_dict (Dict[str, Tensor]): Weights of a UNet for one latent.
        unet (UNet2DConditionModel): The UNet they are for.

    Returns:
        Dict[str, Tensor]: The weights, those that fit already unchanged.
    """
    state_dict = dict(state_dict)
    for key, dim, part in (('conv_in.weight', 1, unet.conv_in.weight),
                           ('conv_out.weight', 0, unet.conv_out.weight),
                           ('conv_out.bias', 0, unet.conv_out.bias)):
        weight = state_dict.get(key)
        if weight is not None and weight.ndim == part.ndim and \
                part.shape[dim] == 2 * weight.shape[dim]:
            weight = torch.cat([weight, weight], dim)
            state_dict[key] = weight / 2 if dim else weight
    return state_dict


def check_config(module: 'ModelMixin', folder: PathLike, subfolder: str) -> None:
    """Raise a ValueError if a part of a diffusers folder has other settings.

    Args:
        module (ModelMixin): The UNet or VAE to be filled.
        folder (str | Path): The folder.
        subfolder (str): ``'unet'`` or ``'vae'``.

    Raises:
        FileNotFoundError: If the folder is not there.
        ValueError: If one of ``SETTINGS`` differs.
    """
    check_folder(folder, subfolder)
    if not Path(folder, subfolder, 'config.json').is_file():
        raise FileNotFoundError(
            f'{name_folder(folder, subfolder)} has no config.json')
    with _naming(folder, subfolder), torch.device('meta'):
        config = module.load_config(
            folder, subfolder=subfolder, local_files_only=True)
        config = type(module).from_config(config).config
    for key in SETTINGS[subfolder]:
        own, theirs = module.config.get(key), config.get(key)
        if own != theirs:
            raise ValueError(
                f'{name_folder(folder, subfolder)} has {key}={theirs}, but '
                f'this config has {key}={own}: they must be the same')


@contextmanager
def _naming(folder: PathLike, subfolder: str) -> Iterator[None]:
    """Name in errors of diffusers, of whatever kind, the part that is damaged."""
    try:
        yield
    except Exception as error:
        raise ValueError(
            f'{name_folder(folder, subfolder)} cannot be read as a part of '
            f"diffusers' layout: {error}") from error


def load_part(module: 'ModelMixin', folder: PathLike, subfolder: str) -> None:
    """Initialise a network from its subfolder of a diffusers folder.

    Args:
        module (ModelMixin): The UNet or VAE to fill.
        folder (str | Path): The folder, its weights as safetensors or .bin.
        subfolder (str): ``'unet'`` or ``'vae'``.

    Raises:
        FileNotFoundError: If the folder or its weights are not there.
        ValueError: If it is damaged or holds another architecture.
    """
    check_config(module, folder, subfolder)
    if not any(Path(folder, subfolder).glob(f'{WEIGHTS}*')):
        raise FileNotFoundError(
            f'{name_folder(folder, subfolder)} has no weights, no {WEIGHTS}.*')
    with _naming(folder, subfolder):
        loaded, keys = type(module).from_pretrained(
            folder,
            subfolder=subfolder,
            local_files_only=True,
            low_cpu_mem_usage=False,
            output_loading_info=True)
    # diffusers leaves these at random values.
    if keys['missing_keys']:
        raise ValueError(
            f'{name_folder(folder, subfolder)} lacks {len(keys["missing_keys"])} of '
            f'its weights, for example {min(keys["missing_keys"])}')
    weights = loaded.state_dict()
    if subfolder == 'unet':
        weights = widen_ends(weights, module)
    load_matching(module, weights, name_folder(folder, subfolder))


def read_weights(path: PathLike) -> Dict[str, Tensor]:
    """Read a state dict without executing code from its file.

    Args:
        path (str | Path): A safetensors file, or what is pickled, see
            :func:`weights_in`.

    Returns:
        Dict[str, Tensor]: The weights, on the CPU.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If it cannot be read or holds more than weights.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'{path} is not a file of weights')
    if Path(path).suffix == '.safetensors':
        try:
            weights = safetensors.torch.load_file(path)
        # Its own, and those of dtypes that it or torch does not know.
        except Exception as error:
            raise ValueError(f'{path} cannot be read: it is truncated or no '
                             f'safetensors file ({error})') from error
    else:
        weights = load_from_local(str(path))
    weights = weights_in(weights, path)
    if weights and not any(value.numel() for value in weights.values()):
        raise ValueError(
            f'{path} holds no values: DeepSpeed with ZeRO-3 left them in '
            'several files. Its zero_to_fp32.py, which lies in the folder above, '
            'makes one of them')
    return weights


def load_unet_file(unet: 'UNet2DConditionModel', path: PathLike) -> None:
    """Initialise a UNet from one file.

    Args:
        unet (UNet2DConditionModel): The UNet to fill.
        path (str | Path): A UNet state dict in diffusers' names, as the
            paper's authors release it (``face.pt``), pickled or safetensors;
            or a checkpoint of this package.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If it cannot be read or holds another architecture.
    """
    state_dict = read_weights(path)
    ours = {}
    # The second as the first version had it.
    for marker in ('network.unet.', 'velocity_net.unet.'):
        ours.update({
            key.split(marker)[1]: value
            for key, value in state_dict.items() if marker in key
        })
    load_matching(unet, widen_ends(ours or state_dict, unet),
                  name_file(path, state_dict))


@torch.no_grad()
def encode_null_prompt(folder: PathLike) -> Tensor:
    """Encode the empty prompt with the text encoder of a diffusers folder.

    Args:
        folder (str | Path): Folder with ``tokenizer/`` and
            ``text_encoder/``.

    Returns:
        Tensor: Embedding of "" padded to the encoder's length, float32,
        shape (1, 77, 768) for Stable Diffusion 1.5.

    Raises:
        FileNotFoundError: If the folder is not there.
    """
    from transformers import CLIPTextModel, CLIPTokenizer
    check_folder(folder, 'tokenizer', 'text_encoder')
    # Small enough to be read even by headers_alone().
    with unset_fake_temporarily():
        tokenizer = CLIPTokenizer.from_pretrained(
            folder, subfolder='tokenizer', local_files_only=True)
        text_encoder = CLIPTextModel.from_pretrained(
            folder, subfolder='text_encoder', local_files_only=True)
        tokens = tokenizer(
            '',
            padding='max_length',
            max_length=tokenizer.model_max_length,
            return_tensors='pt')
        return text_encoder(tokens.input_ids)[0].float()


@contextmanager
def headers_alone() -> Iterator[None]:
    """Let networks that are built in this context load weights without data.

    They go through the same code as ever, and raise the same errors, but only
    names and shapes are read from the files: seconds in place of minutes.
    """
    load_file = safetensors.torch.load_file

    def load_header(path: PathLike, device: str = 'cpu') -> Dict[str, Tensor]:
        with safe_open(path, 'pt') as file:
            return {
                key: torch.empty(file.get_slice(key).get_shape())
                for key in file.keys()
            }

    # torch.load makes tensors without data by itself in this mode.
    safetensors.torch.load_file = load_header
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield
    finally:
        safetensors.torch.load_file = load_file
