"""The velocity network: a diffusers UNet."""

from typing import Optional, Tuple

import torch
from torch import Tensor, nn

from mmseg_semflow.arguments import checked, naming
from mmseg_semflow.flow import Condition
from mmseg_semflow.registry import FUNCTIONS, MODELS

from .low_rank import AdaptableNetwork
from .null_prompt import fill_null, of_sd, of_sdxl
from .pretrained import base_of, load_part, load_unet_file, name_folder


@FUNCTIONS.register_module()
def wrap_unet_blocks(module: nn.Module, recurse: bool,
                     nonwrapped_numel: int) -> bool:
    """Tell FSDP what to shard and gather at once (its ``auto_wrap_policy``).

    Every block of a UNet is a unit, and what lies between them another.

    Args:
        module (nn.Module): A part of the model.
        recurse (bool): Whether FSDP asks to look inside of it.
        nonwrapped_numel (int): Not used.

    Returns:
        bool: True, to look anywhere, else whether it becomes a unit.
    """
    from diffusers import UNet2DConditionModel
    return recurse or isinstance(
        module, UNet2DConditionModel) or hasattr(module, 'resnets')


@MODELS.register_module()
@checked
class VelocityUNet(AdaptableNetwork):
    r"""Predict the velocity :math:`v_\theta(z_t, t)` by a diffusers UNet.

    The UNet counts time in ``num_train_timesteps``: it receives
    :math:`1000 t`, and this is the only place where time is converted. The
    prompt is empty (SemFlow, Sec. 3.2), unless a condition says otherwise; its
    embedding is a buffer of the state dict, so that no text encoder is needed
    after training starts.

    With ``lora`` the weights of the config are the base, which is frozen, and the
    state dict has low-rank changes of it alone, with the digest of the base: a
    checkpoint finds the base where the config of its model names it, and no other
    one is accepted.

    Stable Diffusion 1 and 2 and SDXL fit. That of SDXL
    (``addition_embed_type='text_time'``) is also told the pooled empty prompt and
    the size of its picture, both as buffers.

    Args:
        unet (dict): Arguments of diffusers' ``UNet2DConditionModel``.
        sd_folder (str, optional): Stable Diffusion folder in diffusers'
            layout from which ``init_weights`` takes the UNet and the null
            prompt. Defaults to None, random weights and a zero prompt.
        unet_weights (str, optional): File with the UNet's weights, in place
            of those of ``sd_folder``. Defaults to None.
        num_train_timesteps (int): The UNet's time at t = 1. Defaults to
            1000.
        prompt_length (int): Number of tokens of the prompt. Defaults to 77.
        picture_size (Tuple[int, int], optional): Height and width in pixels that
            SDXL is told, as those of the original and of the uncropped picture.
            Defaults to None, for other UNets.
        gradient_checkpointing (bool): Whether to trade speed for memory in
            training. Defaults to False.
        lora (dict, optional): Arguments of :class:`LowRankAdapter`: ``rank``,
            and ``alpha``, ``targets`` and ``swap``. Defaults to None, all
            weights are trained.

    Raises:
        ValueError: If ``lora`` breaks its rules, or SDXL's UNet comes without
            ``picture_size``, or another with it.
    """

    part = 'unet'

    def __init__(self,
                 unet: dict,
                 sd_folder: Optional[str] = None,
                 unet_weights: Optional[str] = None,
                 num_train_timesteps: int = 1000,
                 prompt_length: int = 77,
                 picture_size: Optional[Tuple[int, int]] = None,
                 gradient_checkpointing: bool = False,
                 lora: Optional[dict] = None) -> None:
        super().__init__()
        from diffusers import UNet2DConditionModel
        if prompt_length < 1:
            raise ValueError(f'prompt_length must be above 0, but got {prompt_length}')
        self.unet = naming('unet', UNet2DConditionModel, **unet)
        self.sd_folder = sd_folder
        self.unet_weights = unet_weights
        self.num_train_timesteps = num_train_timesteps
        self.prompt_length = prompt_length
        if gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
        config = self.unet.config
        self.register_buffer(
            'null_prompt',
            torch.zeros(1, prompt_length, config.cross_attention_dim))
        self.told_size = config.addition_embed_type == 'text_time'
        if self.told_size != (picture_size is not None):
            raise ValueError(
                'picture_size must be given for a UNet with addition_embed_type='
                "'text_time', that of SDXL, and for no other, but got "
                f'picture_size={picture_size} with addition_embed_type='
                f'{config.addition_embed_type!r}')
        if picture_size is not None:
            sizes = [*picture_size, 0, 0, *picture_size]
            pooled = (config.projection_class_embeddings_input_dim
                      - len(sizes) * config.addition_time_embed_dim)
            self.register_buffer('null_pooled', torch.zeros(1, pooled))
            self.register_buffer('sizes', torch.tensor([sizes]))
        self.adapt(lora)

    @property
    def in_channels(self) -> int:
        """int: Number of channels of the state it receives."""
        return self.unet.config.in_channels

    @property
    def takes_embedding(self) -> bool:
        """bool: Whether a condition may have an ``embedding``."""
        config = self.unet.config
        return (config.class_embed_type == 'identity'
                and not config.class_embeddings_concat)

    @property
    def embedding_channels(self) -> int:
        """int: Number of channels of the embedding of time."""
        return self.unet.time_embedding.linear_2.out_features

    @property
    def out_channels(self) -> int:
        """int: Number of channels that it predicts."""
        return self.unet.config.out_channels

    def init_weights(self) -> None:
        """Load the pretrained weights that the config names.

        Raises:
            FileNotFoundError: If ``sd_folder`` or ``unet_weights`` is not
                there.
            ValueError: If they hold another architecture, or there are none
                for ``lora`` to change.
        """
        self.load_core()
        if self.sd_folder is not None:
            buffers = dict(prompt=self.null_prompt)
            if self.told_size:
                buffers['pooled'] = self.null_pooled
            fill_null(buffers, self.sd_folder,
                      base_of(type(self.unet).__name__, self.unet.config),
                      of_sdxl if self.told_size else of_sd, self.prompt_length)

    def _load_core(self) -> Optional[str]:
        if self.unet_weights is not None:
            load_unet_file(self.unet, self.unet_weights)
            return self.unet_weights
        if self.sd_folder is not None:
            load_part(self.unet, self.sd_folder, 'unet')
            return name_folder(self.sd_folder, 'unet')
        return None

    def forward(self,
                zt: Tensor,
                t: Tensor,
                condition: Condition = None) -> Tensor:
        """Predict the velocity.

        Args:
            zt (Tensor): Point on the path, shape (B, C, h, w).
            t (Tensor): Flow time, float32 in [0, 1], shape (B, ).
            condition (Dict[str, Tensor], optional): ``prompt``, embeddings
                (B, L, D) in place of the null prompt; ``has_prompt``, bool
                (B, ), which samples get them, by default all; ``token``, more
                embeddings, (B, K, D), behind either; and, for a UNet with
                ``class_embed_type='identity'``, ``embedding``, (B, E), which is
                added to that of time. Defaults to None.

        Returns:
            Tensor: Predicted dz/dt, float32, shape (B, C, h, w).

        Raises:
            ValueError: If the condition has another key.
        """
        condition = dict(condition or {})
        prompt = condition.pop('prompt', self.null_prompt)
        kept = condition.pop('has_prompt', None)
        token = condition.pop('token', None)
        embedding = None
        if self.takes_embedding:
            embedding = condition.pop('embedding', None)
            if embedding is None:
                embedding = zt.new_zeros(len(zt), self.embedding_channels)
            embedding = embedding.to(self.unet.dtype)
        if condition:
            raise ValueError("the condition of a VelocityUNet has the keys 'prompt', "
                             "'has_prompt' and 'token', and with class_embed_type="
                             "'identity' 'embedding', but got "
                             f'{min(condition)!r}')
        if kept is not None:
            prompt = torch.where(kept[:, None, None], prompt, self.null_prompt)
        timestep = t.float() * self.num_train_timesteps
        prompt = prompt.to(self.unet.dtype).expand(len(zt), -1, -1)
        if token is not None:
            prompt = torch.cat([prompt, token.to(prompt)], 1)
        added = None
        if self.told_size:
            # Integers, so that no dtype of the weights rounds them.
            added = dict(
                text_embeds=self.null_pooled.to(prompt).expand(len(zt), -1),
                time_ids=self.sizes.float().expand(len(zt), -1))
        return self.unet(
            zt.to(self.unet.dtype), timestep, prompt, class_labels=embedding,
            added_cond_kwargs=added, return_dict=False)[0].float()
