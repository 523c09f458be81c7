"""The velocity network: a diffusers transformer under a null condition."""

from typing import Callable, Dict, Optional, Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmseg_semflow.arguments import checked, naming
from mmseg_semflow.flow import Condition
from mmseg_semflow.registry import FUNCTIONS, MODELS

from .low_rank import AdaptableNetwork
from .null_prompt import fill_null, of_flux, of_flux2, of_sd3, of_unmasked
from .pretrained import TRANSFORMERS, base_of, load_part, name_folder

BLOCKS = ('JointTransformerBlock', 'FluxTransformerBlock',
          'FluxSingleTransformerBlock', 'Flux2TransformerBlock',
          'Flux2SingleTransformerBlock', 'SanaTransformerBlock',
          'BasicTransformerBlock')


@FUNCTIONS.register_module()
def wrap_transformer_blocks(module: nn.Module, recurse: bool,
                            nonwrapped_numel: int) -> bool:
    """Tell FSDP what to shard and gather at once (its ``auto_wrap_policy``).

    Every block of a transformer is a unit, and what lies between them another.

    Args:
        module (nn.Module): A part of the model.
        recurse (bool): Whether FSDP asks to look inside of it.
        nonwrapped_numel (int): Not used.

    Returns:
        bool: True, to look anywhere, else whether it becomes a unit.
    """
    return recurse or type(module).__name__ in (*BLOCKS, *TRANSFORMERS)


class _Form:
    """How a class of diffusers is called.

    Attributes:
        encode (Callable, optional): Encodes the null prompt, see
            :mod:`null_prompt`. None: there is no prompt.
        prompt_length (int): Number of tokens of the prompt by default.
        clip_length (int): How many tokens stand before these.
        prompt_width (str): Key of the config with the width of a token.
        packs (bool): Whether the transformer wants patches of 2 x 2 as
            channels.
        rounds_time (str): Name of the module that embeds the time, where the
            transformer rounds it to the dtype of the weights before.
    """

    encode: Optional[Callable] = None
    prompt_length = 0
    clip_length = 0
    prompt_width = ''
    packs = False
    rounds_time = ''

    def patch(self, config: dict) -> int:
        """Give the side of what the latents are cut into."""
        return 2 if self.packs else config['patch_size']

    def __call__(self, transformer: nn.Module, zt: Tensor, t: Tensor,
                 null: Dict[str, Tensor], guidance: float) -> Tensor:
        """Predict dz/dt, from latents that fit and t in [0, 1]."""
        raise NotImplementedError


class _SD3(_Form):
    encode = staticmethod(of_sd3)
    prompt_length = 256
    clip_length = 77
    prompt_width = 'joint_attention_dim'

    def __call__(self, transformer, zt, t, null, guidance):
        return transformer(
            zt, null['prompt'], null['pooled'], 1000 * t, return_dict=False)[0]


class _Flux(_Form):
    encode = staticmethod(of_flux)
    prompt_length = 512
    prompt_width = 'joint_attention_dim'
    packs = True
    rounds_time = 'time_text_embed'
    # Of the position of a token: layer, row, column.
    axes = 3

    def positions(self, height: int, width: int, length: int,
                  device: torch.device) -> Tuple[Tensor, Tensor]:
        """Give the positions of patches and of words, (N, axes), (L, axes)."""
        of_patches = torch.zeros(height, width, self.axes, device=device)
        of_patches[..., 1] = torch.arange(height, device=device)[:, None]
        of_patches[..., 2] = torch.arange(width, device=device)
        return of_patches.flatten(0, 1), torch.zeros(length, self.axes, device=device)

    def __call__(self, transformer, zt, t, null, guidance):
        packed = F.pixel_unshuffle(zt, 2)
        of_patches, of_words = self.positions(
            *packed.shape[-2:], null['prompt'].shape[1], zt.device)
        more = {}
        if 'pooled' in null:
            more['pooled_projections'] = null['pooled']
        if transformer.config.guidance_embeds:
            more['guidance'] = torch.full_like(t, guidance)
        out = transformer(
            packed.flatten(2).transpose(1, 2),
            encoder_hidden_states=null['prompt'],
            timestep=t,
            img_ids=of_patches,
            txt_ids=of_words,
            return_dict=False,
            **more)[0]
        return F.pixel_shuffle(
            out.transpose(1, 2).unflatten(2, packed.shape[-2:]), 2)


class _Flux2(_Flux):
    encode = staticmethod(of_flux2)
    rounds_time = 'time_guidance_embed'
    # And the place of a word.
    axes = 4

    def positions(self, height, width, length, device):
        of_patches, of_words = super().positions(height, width, length, device)
        of_words[:, 3] = torch.arange(length, device=device)
        return of_patches, of_words


class _Sana(_Form):
    encode = staticmethod(of_unmasked)
    prompt_length = 1
    prompt_width = 'caption_channels'

    def __call__(self, transformer, zt, t, null, guidance):
        scale = transformer.config.get('timestep_scale', 1.)
        return transformer(
            zt, null['prompt'], 1000 * t * scale, return_dict=False)[0]


class _PixArt(_Sana):

    def __call__(self, transformer, zt, t, null, guidance):
        told = dict(resolution=None, aspect_ratio=None)
        if transformer.use_additional_conditions:
            height, width = zt.shape[-2:]
            told = dict(
                # In pixels of its autoencoder, of factor 8.
                resolution=zt.new_tensor([[8 * height, 8 * width]]).expand(len(zt), -1),
                aspect_ratio=zt.new_full((len(zt), 1), height / width))
        out = transformer(
            zt, null['prompt'], 1000 * t, added_cond_kwargs=told,
            return_dict=False)[0]
        return _without_variance(out, zt)


class _DiT(_Form):

    def __call__(self, transformer, zt, t, null, guidance):
        height, width = zt.shape[-2:]
        if height != width:
            raise ValueError(
                'a DiTTransformer2DModel takes square latents alone, but got '
                f'{height}x{width} (height x width, in cells): crop or resize the '
                'pictures to squares, or take another base')
        # The class that stands for none.
        none = torch.full((len(zt), ), transformer.config.num_embeds_ada_norm,
                          device=zt.device)
        out = transformer(zt, 1000 * t, none, return_dict=False)[0]
        return _without_variance(out, zt)


def _without_variance(out: Tensor, zt: Tensor) -> Tensor:
    """Leave out the variance that some predict behind the noise."""
    channels = zt.shape[1]
    return out[:, :channels] if out.shape[1] == 2 * channels else out


FORMS: Dict[str, _Form] = dict(
    SD3Transformer2DModel=_SD3(),
    FluxTransformer2DModel=_Flux(),
    Flux2Transformer2DModel=_Flux2(),
    SanaTransformer2DModel=_Sana(),
    PixArtTransformer2DModel=_PixArt(),
    DiTTransformer2DModel=_DiT())


@MODELS.register_module()
@checked
class VelocityTransformer(AdaptableNetwork):
    r"""Predict the velocity :math:`v_\theta(z_t, t)` by a diffusers transformer.

    Stable Diffusion 3, FLUX.1 and .2 and SANA are rectified flows themselves, from
    pictures at :math:`\sigma = 0` to noise at :math:`\sigma = 1`, and predict
    noise minus picture (Esser et al., ICML 2024, Eq. 13). That is SemFlow's path
    with noise in the place of the mask: :math:`\sigma = t`, and the velocity has
    the same sign. PixArt and DiT predict the noise of a diffusion of 1000 steps, at
    :math:`1000 t` as Stable Diffusion 1 does; the variance that they
    predict besides is left out. This is the only place where time is converted.

    The condition is always the empty prompt, whose embeddings are buffers of the
    state dict, so that no text encoder is needed after training starts; of
    DiT it is the class that stands for none.

    With ``lora`` the weights of the folder are the base of an adapter, as for a
    :class:`VelocityUNet`.

    Latents that do not fit the patches are padded by their last row and column, and
    the result is cropped.

    Args:
        transformer (dict): ``type``, the class in diffusers, one of ``FORMS``, and
            its arguments.
        sd_folder (str, optional): Folder in diffusers' layout from which
            ``init_weights`` takes the transformer and the null condition. Defaults
            to None, random weights and zeros.
        prompt_length (int, optional): Number of tokens of the prompt, for Stable
            Diffusion 3 without the 77 of CLIP. Defaults to None: 256 for it, 512
            for FLUX, 1 for SANA and PixArt, which see no padding.
        guidance (float): The guidance that a transformer with ``guidance_embeds``
            is told, always the same. Defaults to 1., none.
        gradient_checkpointing (bool): Whether to trade speed for memory in
            training. Defaults to False.
        lora (dict, optional): Arguments of :class:`LowRankAdapter`: ``rank``, and
            ``alpha``, ``targets`` and ``swap``. Defaults to None, all weights are
            trained.

    Raises:
        ValueError: If ``type`` is not known, or not to this version of diffusers, or
            ``lora`` breaks its rules.
    """

    part = 'transformer'
    # The time at t = 1 in the steps of a diffusion.
    num_train_timesteps = 1000

    def __init__(self,
                 transformer: dict,
                 sd_folder: Optional[str] = None,
                 prompt_length: Optional[int] = None,
                 guidance: float = 1.,
                 gradient_checkpointing: bool = False,
                 lora: Optional[dict] = None) -> None:
        super().__init__()
        import diffusers
        if prompt_length is not None and prompt_length < 1:
            raise ValueError(f'prompt_length must be above 0, but got {prompt_length}')
        arguments = dict(transformer)
        name = arguments.pop('type', None)
        if name not in FORMS:
            raise ValueError(f'transformer.type must be one of {", ".join(FORMS)}, '
                             f'but got {name!r}')
        if not hasattr(diffusers, name):
            raise ValueError(f'diffusers {diffusers.__version__} has no {name}: '
                             'install a newer one')
        self.form = FORMS[name]
        self.transformer = naming(
            'transformer', getattr(diffusers, name), **arguments)
        self.sd_folder = sd_folder
        self.guidance = guidance
        self.prompt_length = prompt_length or self.form.prompt_length
        config = self.transformer.config
        if self.form.encode:
            self.register_buffer(
                'null_prompt',
                torch.zeros(1, self.form.clip_length + self.prompt_length,
                            config[self.form.prompt_width]))
        if 'pooled_projection_dim' in config:
            self.register_buffer(
                'null_pooled', torch.zeros(1, config.pooled_projection_dim))
        if gradient_checkpointing:
            self.transformer.enable_gradient_checkpointing()
        self._time: Optional[Tensor] = None
        if self.form.rounds_time:
            embed = self.transformer.get_submodule(self.form.rounds_time)
            embed.timestep_embedder.register_forward_pre_hook(self._exact)
        self.adapt(lora)

    def _exact(self, module: nn.Module, args: tuple) -> tuple:
        """Put waves of the time in the place of those that bfloat16 rounded."""
        embed = self.transformer.get_submodule(self.form.rounds_time)
        return (embed.time_proj(1000 * self._time).to(args[0].dtype), *args[1:])

    @property
    def in_channels(self) -> int:
        """int: Number of channels of the state it receives."""
        return self.transformer.config.in_channels // (4 if self.form.packs else 1)

    @property
    def out_channels(self) -> int:
        """int: Number of channels that it predicts."""
        return self.in_channels

    def _null(self) -> Dict[str, Tensor]:
        """Give the buffers of the null condition by their short names."""
        return {
            key: getattr(self, f'null_{key}')
            for key in ('prompt', 'pooled') if hasattr(self, f'null_{key}')
        }

    def init_weights(self) -> None:
        """Load the pretrained weights that the config names.

        Raises:
            FileNotFoundError: If ``sd_folder`` is not there.
            ValueError: If it holds another base, or there are no weights for ``lora``
                to change.
        """
        self.load_core()
        if self.form.encode and self.sd_folder is not None:
            base = base_of(type(self.transformer).__name__, self.transformer.config)
            fill_null(self._null(), self.sd_folder, base, self.form.encode,
                      self.prompt_length)

    def _load_core(self) -> Optional[str]:
        if self.sd_folder is None:
            return None
        load_part(self.transformer, self.sd_folder, 'transformer')
        return name_folder(self.sd_folder, 'transformer')

    def forward(self,
                zt: Tensor,
                t: Tensor,
                condition: Condition = None) -> Tensor:
        """Predict the velocity.

        Args:
            zt (Tensor): Point on the path, shape (B, C, h, w).
            t (Tensor): Flow time, float32 in [0, 1], shape (B, ).
            condition (Dict[str, Tensor], optional): ``prompt``, embeddings
                (B, L, D) in place of the null prompt; and ``token``, more of
                them, (B, K, D), behind it. Defaults to None.

        Returns:
            Tensor: Predicted dz/dt, float32, shape (B, C, h, w).

        Raises:
            ValueError: If the condition has another key, or the base cannot take
                latents of this size.
        """
        dtype = self.transformer.dtype
        null = self._null()
        condition = dict(condition or {})
        token = None
        if 'prompt' in null:
            null['prompt'] = condition.pop('prompt', null['prompt'])
            token = condition.pop('token', None)
        if condition:
            known = "'prompt' and 'token'" if 'prompt' in null else 'none'
            raise ValueError(f'the keys that the condition of a {type(self).__name__} '
                             f'of {type(self.transformer).__name__} may have are '
                             f'{known}, but got {min(condition)!r}')
        null = {
            key: value.to(dtype).expand(len(zt), *value.shape[1:])
            for key, value in null.items()
        }
        if token is not None:
            null['prompt'] = torch.cat([null['prompt'], token.to(dtype)], 1)
        height, width = zt.shape[-2:]
        patch = self.form.patch(self.transformer.config)
        padded = F.pad(zt, (0, -width % patch, 0, -height % patch), mode='replicate')
        self._time = t.float()
        out = self.form(self.transformer, padded.to(dtype), self._time, null,
                        self.guidance)
        return out[..., :height, :width].float()
