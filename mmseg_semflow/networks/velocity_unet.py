"""The velocity network: a diffusers UNet under a null prompt."""

from typing import Optional

import torch
from mmengine.model import BaseModule
from mmengine.registry import FUNCTIONS, MODELS
from torch import Tensor, nn

from mmseg_semflow.arguments import checked, naming
from mmseg_semflow.flow import Condition

from .pretrained import (
    encode_null_prompt,
    load_part,
    load_unet_file,
    name_folder,
)


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
class VelocityUNet(BaseModule):
    r"""Predict the velocity :math:`v_\theta(z_t, t)` by a diffusers UNet.

    The UNet counts time in ``num_train_timesteps``: it receives
    :math:`1000 t`, and this is the only place where time is converted. The
    prompt is always empty (SemFlow, Sec. 3.2), its embedding is a buffer of
    the state dict, so that no text encoder is needed after training starts.

    Args:
        unet (dict): Arguments of diffusers' ``UNet2DConditionModel``.
        sd_folder (str, optional): Stable Diffusion 1.5 folder in diffusers'
            layout from which ``init_weights`` takes the UNet and the null
            prompt. Defaults to None, random weights and a zero prompt.
        unet_weights (str, optional): File with the UNet's weights, in place
            of those of ``sd_folder``. Defaults to None.
        num_train_timesteps (int): The UNet's time at t = 1. Defaults to
            1000.
        prompt_length (int): Number of tokens of the prompt. Defaults to 77.
        gradient_checkpointing (bool): Whether to trade speed for memory in
            training. Defaults to False.
    """

    def __init__(self,
                 unet: dict,
                 sd_folder: Optional[str] = None,
                 unet_weights: Optional[str] = None,
                 num_train_timesteps: int = 1000,
                 prompt_length: int = 77,
                 gradient_checkpointing: bool = False) -> None:
        super().__init__()
        from diffusers import UNet2DConditionModel
        self.unet = naming('unet', UNet2DConditionModel, **unet)
        self.sd_folder = sd_folder
        self.unet_weights = unet_weights
        self.num_train_timesteps = num_train_timesteps
        if gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
        self.register_buffer(
            'null_prompt',
            torch.zeros(1, prompt_length,
                        self.unet.config.cross_attention_dim))

    @property
    def in_channels(self) -> int:
        """int: Number of channels of the state it receives."""
        return self.unet.config.in_channels

    @property
    def out_channels(self) -> int:
        """int: Number of channels that it predicts."""
        return self.unet.config.out_channels

    def init_weights(self) -> None:
        """Load the pretrained weights that the config names.

        Raises:
            FileNotFoundError: If ``sd_folder`` or ``unet_weights`` is not
                there.
            ValueError: If they hold another architecture.
        """
        if self.sd_folder is not None:
            self._init_null_prompt(self.sd_folder)
        if self.unet_weights is not None:
            load_unet_file(self.unet, self.unet_weights)
        elif self.sd_folder is not None:
            load_part(self.unet, self.sd_folder, 'unet')

    def _init_null_prompt(self, folder: str) -> None:
        null_prompt = encode_null_prompt(folder)
        if null_prompt.shape != self.null_prompt.shape:
            raise ValueError(
                f'the null prompt of {name_folder(folder, "text_encoder")} has '
                f'shape {tuple(null_prompt.shape)}, but this config wants '
                f'{tuple(self.null_prompt.shape)} (1, prompt_length, '
                'cross_attention_dim)')
        self.null_prompt.copy_(null_prompt)

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
            ValueError: If the condition has another key.
        """
        condition = dict(condition or {})
        prompt = condition.pop('prompt', self.null_prompt)
        token = condition.pop('token', None)
        if condition:
            raise ValueError("the condition of a VelocityUNet has the keys 'prompt' "
                             f"and 'token', but got {min(condition)!r}")
        timestep = t.float() * self.num_train_timesteps
        prompt = prompt.to(self.unet.dtype).expand(len(zt), -1, -1)
        if token is not None:
            prompt = torch.cat([prompt, token.to(prompt)], 1)
        return self.unet(
            zt.to(self.unet.dtype), timestep, prompt,
            return_dict=False)[0].float()
