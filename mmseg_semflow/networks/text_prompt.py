"""What a picture shows, in words, in place of the null prompt."""

from typing import Dict, Optional, Sequence

import torch
from torch import Tensor, nn

from mmseg_semflow.arguments import checked
from mmseg_semflow.flow import Condition, Generators, Network
from mmseg_semflow.registry import MODELS, BaseModule

from .null_prompt import encode_prompts
from .pretrained import name_folder
from .velocity_transformer import VelocityTransformer


@MODELS.register_module()
@checked
class TextPrompt(BaseModule):
    """Tell the network the scene and the classes of a picture by text.

    For a base that reads the text encoder of Stable Diffusion, in the manner of
    DGInStyle (Jia et al., ECCV 2024), whose prompt lists the classes of a mask.
    Listing them in one sentence would take the encoder in every iteration. Here the
    prompt is the sentence of the scene, of whose padding the last tokens are those
    of the classes that the mask has, each the last token of its name: attention
    does not ask for their order. All is encoded when training starts and is part of
    the checkpoint; the encoder is needed again for other words alone, such as those
    of weather, see :meth:`encode_texts`.

    The text is dropped for a part of the training, and always at t = 0, where
    segmentation begins: that gets the null prompt of the network.

    Args:
        classes (Sequence[str]): Names of the classes, in the order of the labels.
        sd_folder (str, optional): Folder in diffusers' layout with ``tokenizer/``
            and ``text_encoder/``. Defaults to None, embeddings of zeros.
        scene (str): What all pictures show. Defaults to ``'a photo'``.
        token_channels (int): Number of channels of a token, the UNet's
            ``cross_attention_dim``. Defaults to 768.
        prompt_length (int): Number of tokens of the prompt. Defaults to 77.
        max_classes (int): How many classes the prompt names, at most; those of
            most pixels. Defaults to 32.
        dropout (float): Part of the samples in [0, 1) whose text is dropped.
            Defaults to 0.5.

    Raises:
        ValueError: If an argument breaks its rule.
    """

    targets = ('velocity', )

    def __init__(self,
                 classes: Sequence[str],
                 sd_folder: Optional[str] = None,
                 scene: str = 'a photo',
                 token_channels: int = 768,
                 prompt_length: int = 77,
                 max_classes: int = 32,
                 dropout: float = 0.5) -> None:
        super().__init__()
        if isinstance(classes, str) or not classes:
            raise ValueError(f'classes must be a list of names, but got {classes!r}')
        if not 0 <= dropout < 1:
            raise ValueError(f'dropout must be in [0, 1), but got {dropout}')
        if not 1 <= max_classes < prompt_length:
            raise ValueError('max_classes must be in [1, prompt_length), but got '
                             f'max_classes={max_classes}, '
                             f'prompt_length={prompt_length}')
        self.classes = tuple(classes)
        self.sd_folder = sd_folder
        self.scene_text = scene
        self.num_named = min(max_classes, len(self.classes))
        self.dropout = dropout
        self.register_buffer('scene', torch.zeros(1, prompt_length, token_channels))
        self.register_buffer('names', torch.zeros(len(self.classes), token_channels))

    def check_network(self, network: nn.Module) -> None:
        """Raise a ValueError unless a network reads the prompts of this module."""
        if isinstance(network, VelocityTransformer) or not hasattr(
                network, 'null_prompt'):
            raise ValueError(
                'TextPrompt is for a network with the prompt of Stable Diffusion, such '
                f'as VelocityUNet, but the network is a {type(network).__name__}: '
                'take TextPrompt out of wrappers, or another network')
        own, wanted = (tuple(p.shape[1:]) for p in (self.scene, network.null_prompt))
        if own != wanted:
            raise ValueError(
                f'prompt_length and token_channels of TextPrompt are {own}, but the '
                f'prompt of the network has {wanted}: they must be the same')

    def init_weights(self) -> None:
        """Encode the scene and the names of the classes.

        Raises:
            FileNotFoundError: If ``sd_folder`` is not there.
            ValueError: If it holds another encoder, or the scene is too long.
        """
        if self.sd_folder is not None:
            self.scene.copy_(self._encode([self.scene_text]))
            embeddings, lengths = encode_prompts(self.sd_folder, self.classes)
            self.names.copy_(embeddings[torch.arange(len(lengths)), lengths - 1])

    def _encode(self, texts: Sequence[str]) -> Tensor:
        """Encode sentences that leave room for the classes: (N, L, D)."""
        embeddings, lengths = encode_prompts(self.sd_folder, texts)
        if embeddings.shape[1:] != self.scene.shape[1:]:
            raise ValueError(
                f'{name_folder(self.sd_folder, "text_encoder")} makes embeddings of '
                f'{tuple(embeddings.shape[1:])}, but this config wants '
                f'{tuple(self.scene.shape[1:])} (prompt_length, token_channels)')
        room = embeddings.shape[1] - self.num_named
        for text, length in zip(texts, lengths.tolist(), strict=True):
            if length > room:
                raise ValueError(
                    f'{text!r} has {length} tokens, but the names of '
                    f'{self.num_named} classes leave room for {room}')
        return embeddings

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Encode the scene with further words, such as ``'foggy weather'``.

        Args:
            texts (Sequence[str]): What follows the scene and a comma; '' is the
                scene alone.

        Returns:
            Tensor: Embeddings for the condition ``text``, shape (N, L, D), on the
            device of the module.

        Raises:
            FileNotFoundError: If the text encoder is not where ``sd_folder`` says.
            ValueError: If there is no ``sd_folder``, it is not that of the
                training, or a text is too long.
        """
        if self.sd_folder is None:
            raise ValueError(
                'a checkpoint knows the words of its training alone: to encode '
                'others, set sd_folder of TextPrompt in the wrappers of the config '
                'to the folder with the text encoder of the training')
        sentences = [
            f'{self.scene_text}, {text}' if text else self.scene_text for text in texts
        ]
        embeddings = self._encode([self.scene_text, *sentences]).to(self.scene)
        # But for rounding, of a checkpoint or a device.
        if (embeddings[:1] - self.scene).norm() > 0.02 * self.scene.norm():
            raise ValueError(
                f'{self.sd_folder}/text_encoder is not that of the training, or the '
                f'scene was not {self.scene_text!r} there: its embedding differs from '
                'that in the checkpoint')
        return embeddings[1:]

    def shares(self, label_maps: Tensor) -> Tensor:
        """Measure the classes of label maps.

        Args:
            label_maps (Tensor): Labels; those that are no class count for none,
                int64, shape (B, H, W).

        Returns:
            Tensor: Share of the pixels of every class, shape (B, K).
        """
        labels = label_maps.flatten(1)
        count = len(self.classes)
        labels = labels.masked_fill((labels < 0) | (labels >= count), count)
        pixels = labels.new_zeros(len(labels), count + 1).scatter_add_(
            1, labels, torch.ones_like(labels))
        return pixels[:, :count] / labels.shape[1]

    def training_condition(self, z0: Tensor, z1: Tensor, t: Tensor,
                           label_maps: Tensor) -> Dict[str, Tensor]:
        """Make the condition of a training batch.

        Args:
            z0 (Tensor): Image latents, shape (B, C, h, w).
            z1 (Tensor): Mask latents, shape (B, C, h, w).
            t (Tensor): Flow times, shape (B, ).
            label_maps (Tensor): Labels, int64, shape (B, H, W).

        Returns:
            Dict[str, Tensor]: ``classes``, (B, K), and ``has_text``, (B, ).
        """
        kept = torch.rand(len(z0), device=z0.device) >= self.dropout
        return dict(classes=self.shares(label_maps), has_text=kept & (t > 0))

    def sampling_condition(self,
                           z1: Tensor,
                           label_maps: Tensor,
                           generators: Generators = None) -> Dict[str, Tensor]:
        """Make the condition of a synthesis.

        Args:
            z1 (Tensor): Mask latents, shape (B, C, h, w).
            label_maps (Tensor): Labels, int64, shape (B, H, W).
            generators (Sequence[torch.Generator], optional): Not used. Defaults to
                None.

        Returns:
            Dict[str, Tensor]: ``classes``, (B, K).
        """
        return dict(classes=self.shares(label_maps))

    def prompt(self, classes: Tensor, text: Optional[Tensor] = None) -> Tensor:
        """Compose the prompt.

        Args:
            classes (Tensor): Share of the pixels of every class, shape (B, K).
            text (Tensor, optional): Embeddings of sentences, (B, L, D). Defaults
                to None, the scene.

        Returns:
            Tensor: Embeddings, shape (B, L, D).
        """
        text = self.scene if text is None else text
        text = text.expand(len(classes), -1, -1)
        share, picks = classes.topk(self.num_named)
        words, padding = text.split(
            [text.shape[1] - self.num_named, self.num_named], 1)
        names = torch.where(share[..., None] > 0, self.names[picks], padding)
        return torch.cat([words, names], 1)

    def forward(self,
                network: Network,
                zt: Tensor,
                t: Tensor,
                condition: Condition = None) -> Tensor:
        """Predict the velocity.

        Args:
            network (Callable): See :class:`VelocityUNet`.
            zt (Tensor): Point on the path, shape (B, C, h, w).
            t (Tensor): Flow time, float32 in [0, 1], shape (B, ).
            condition (Dict[str, Tensor], optional): ``classes``, (B, K), see
                :meth:`shares`; ``text``, (B, L, D), in place of the scene; and
                ``has_text``, (B, ), by default all. Without ``classes`` it is the
                null prompt. What else it has is passed on. Defaults to None.

        Returns:
            Tensor: dz/dt, shape (B, C, h, w).
        """
        condition = dict(condition or {})
        classes = condition.pop('classes', None)
        text = condition.pop('text', None)
        kept = condition.pop('has_text', None)
        if classes is not None:
            condition['prompt'] = self.prompt(classes, text)
            if kept is not None:
                condition['has_prompt'] = kept
        return network(zt, t, condition)
