"""Conversion between checkpoints of ours and other formats.

A config says which networks they are for.
"""

import copy
from pathlib import Path
from typing import ContextManager, Optional, Union

import torch
from mmengine.config import Config
from mmengine.model import BaseModule
from mmengine.registry import MODELS, init_default_scope
from mmseg.utils.tokenizer import SimpleTokenizer

from mmseg_semflow.export.model_card import model_card
from mmseg_semflow.export.pipeline import SemFlowPipeline
from mmseg_semflow.export.settings import settings_of
from mmseg_semflow.files import written_whole
from mmseg_semflow.flow import PseudoMaskCodec
from mmseg_semflow.models.checkpoint_guard import PREFIX, weights_of
from mmseg_semflow.networks.diffusers_folder import (
    PARTS,
    fill_model,
    folder_to_model,
    single_file_to_folder,
)
from mmseg_semflow.networks.pretrained import read_checkpoint

from .loading import (
    ConfigType,
    dataset_name,
    find_dataset_meta,
    meta_of_dataset,
    name_of,
    read_config,
)

PathLike = Union[str, Path]
# 0.1 (rand - 0.5) on [-1, 1] in the authors' code; their paper says 6.
RELEASED_AMPLITUDE = 0.1 * 0.5 * 127.5


def _appearing(out: PathLike, overwrite: bool) -> ContextManager[Path]:
    """Write to a file or a diffusers folder, see :func:`written_whole`."""
    out = Path(out)
    if out.exists() and not overwrite:
        raise FileExistsError(f'{out} is there already: choose another name '
                              'or overwrite it (--overwrite)')
    if out.is_dir() and not any(
            (out / part / 'config.json').is_file() for part in PARTS):
        raise FileExistsError(f'{out} is no diffusers folder (it has no '
                              'unet/config.json) and is not overwritten')
    return written_whole(out, overwrite)


def stable_diffusion_to_folder(config: ConfigType,
                               weights: PathLike,
                               out: PathLike,
                               overwrite: bool = False) -> None:
    """Convert a single-file checkpoint of Stable Diffusion 1 to a folder.

    The folder is complete: diffusers' ``StableDiffusionPipeline`` loads it.
    The tokenizer is made from CLIP's vocabulary that mmsegmentation brings.

    Args:
        config (str | Path | Config): A config with its UNet and VAE.
        weights (str | Path): The file, safetensors or pickled.
        out (str | Path): The folder to write.
        overwrite (bool): Whether to replace a diffusers folder. Defaults to
            False.

    Raises:
        FileNotFoundError: If there is no such file.
        FileExistsError: If there is something at ``out``.
        ValueError: If the file cannot be read or does not fit the config.
    """
    cfg = read_config(config)
    _check_parts(cfg, 'a folder of Stable Diffusion')
    tokenizer = SimpleTokenizer()
    words = list(tokenizer.encoder)[:-2] + ['<|startoftext|>', '<|endoftext|>']
    semflow = cfg.model.semflow
    with _appearing(out, overwrite) as folder:
        single_file_to_folder(
            weights,
            folder,
            unet=semflow.network.unet,
            vae=semflow.autoencoder.vae,
            vocabulary={word: i for i, word in enumerate(words)},
            merges=[' '.join(pair) for pair in tokenizer.bpe_ranks])


def checkpoint_to_folder(config: ConfigType,
                         checkpoint: PathLike,
                         out: PathLike,
                         overwrite: bool = False,
                         licence: Optional[str] = None,
                         results: Optional[PathLike] = None) -> None:
    """Convert a checkpoint of ours to a folder of a pipeline of diffusers.

    The weights are those of its ``state_dict``, which testing uses: the
    averaged ones where it was trained with mmengine's ``EMAHook``.

    Args:
        config (str | Path | Config): The config of the checkpoint.
        checkpoint (str | Path): Of the segmentor or of the generator.
        out (str | Path): The folder to write, which :class:`SemFlowPipeline`
            loads, with a model card.
        overwrite (bool): Whether to replace a diffusers folder. Defaults to
            False.
        licence (str, optional): Of the weights, for the card. Defaults to None,
            not said.
        results (str | Path, optional): A Markdown file of figures and their
            protocol, for the card. Defaults to None, none.

    Raises:
        FileNotFoundError: If there is no such checkpoint, or file of results.
        FileExistsError: If there is something at ``out``.
        ValueError: If the checkpoint cannot be read or does not fit the
            config, or the config has what cannot be exported.
    """
    cfg = read_config(config)
    found = None if results is None else Path(results).read_text('utf-8')
    with _appearing(out, overwrite) as new:
        model = _build(cfg.model.semflow)
        weights, meta = read_checkpoint(checkpoint)
        fill_model(model, weights_of(weights), checkpoint)
        settings = settings_of(
            cfg, find_dataset_meta(cfg, meta, model.codec.num_classes, checkpoint),
            name_of(cfg))
        card = model_card(
            settings, Path(out).name, f'`{dataset_name(cfg)}`', licence, found)
        SemFlowPipeline(model, settings, card).save_pretrained(new)


def folder_to_checkpoint(config: ConfigType,
                         folder: PathLike,
                         out: PathLike,
                         overwrite: bool = False) -> None:
    """Convert a folder that we wrote back to a checkpoint.

    Args:
        config (str | Path | Config): The config for the checkpoint.
        folder (str | Path): See :func:`folder_to_model`.
        out (str | Path): The checkpoint to write.
        overwrite (bool): Whether to replace it. Defaults to False.

    Raises:
        FileNotFoundError: If the folder or a file of it is not there.
        FileExistsError: If there is something at ``out``.
        ValueError: If the folder does not fit the config.
    """
    cfg = read_config(config)
    with _appearing(out, overwrite) as new:
        model = _build(cfg.model.semflow)
        folder_to_model(folder, model)
        _save_checkpoint(model, cfg, new)


def released_to_checkpoint(config: ConfigType,
                           weights: PathLike,
                           out: PathLike,
                           sd_folder: Optional[PathLike] = None,
                           overwrite: bool = False,
                           amplitude: float = RELEASED_AMPLITUDE) -> None:
    """Convert the UNet that the paper's authors release to a checkpoint.

    Args:
        config (str | Path | Config): The config for the checkpoint, with the
            codec that the UNet was trained with.
        weights (str | Path): The UNet's weights: ``face.pt``,
            ``checkpoint-N/model.safetensors`` or DeepSpeed's
            ``mp_rank_00_model_states.pt``.
        out (str | Path): The checkpoint to write.
        sd_folder (str | Path, optional): The Stable Diffusion folder with
            the VAE and the text encoder. Defaults to None, that of the
            config.
        overwrite (bool): Whether to replace ``out``. Defaults to False.
        amplitude (float): Of the perturbation that the UNet was trained with,
            in 8-bit levels. Defaults to that of the authors' code, 6.375.

    Raises:
        FileNotFoundError: If the weights or the folder are not there.
        FileExistsError: If there is something at ``out``.
        ValueError: If the config does not name a folder, does not fit, or has
            another amplitude.
    """
    cfg = read_config(config)
    _check_parts(cfg, "the authors' UNet")
    semflow = copy.deepcopy(cfg.model.semflow)
    configured = PseudoMaskCodec(**semflow.codec).amplitude
    if configured != amplitude:
        raise ValueError(
            f"the authors' code trains with an amplitude of {amplitude:g} levels, "
            f'but {name_of(cfg)} has model.semflow.codec.amplitude='
            f'{configured:g}, and synthesis must perturb as training did: take '
            'configs/semflow_celebamask_hq_released.py or a config of your own '
            f'with amplitude={amplitude:g}; or, where the UNet was trained with '
            'another amplitude than theirs, say so (--amplitude)')
    sd_folder = sd_folder or semflow.network.get('sd_folder')
    if not sd_folder:
        raise ValueError(
            f'{name_of(cfg)} has no sd_folder: name a Stable Diffusion folder '
            'for the VAE and the null prompt (--sd-folder)')
    semflow.network.update(
        sd_folder=str(sd_folder), unet_weights=str(weights))
    semflow.autoencoder.sd_folder = str(sd_folder)
    with _appearing(out, overwrite) as new:
        model = _build(semflow)
        # By parts: mmengine's init_weights of the whole prints every weight.
        model.network.init_weights()
        model.autoencoder.init_weights()
        _save_checkpoint(model, cfg, new)


def _check_parts(cfg: Config, user: str) -> None:
    for part, kind in dict(
            network='VelocityUNet', autoencoder='KLAutoencoder').items():
        found = cfg.model.semflow[part].type
        if found != kind:
            raise ValueError(
                f'{user} needs a config with {part}.type={kind!r}, as '
                f'configs/semflow_cityscapes.py, but {name_of(cfg)} has {found!r}')


def _build(semflow: dict) -> BaseModule:
    init_default_scope('mmseg')
    return MODELS.build(semflow)


def _save_checkpoint(model: BaseModule, cfg: Config, path: Path) -> None:
    state_dict = {f'{PREFIX}{k}': v for k, v in model.state_dict().items()}
    found = meta_of_dataset(cfg)
    dataset_meta = {k: found[k] for k in ('classes', 'palette') if k in found}
    meta = dict(dataset_meta=dataset_meta) if dataset_meta else {}
    torch.save(dict(meta=meta, state_dict=state_dict), path)
