"""What a picture looks like as a whole, as a token or beside the time."""

from typing import Dict, Optional

import torch
from torch import Tensor, nn

from mmseg_semflow.arguments import checked
from mmseg_semflow.flow import Condition, Generators, Network
from mmseg_semflow.registry import MODELS, BaseModule


def latent_style(z0: Tensor) -> Tensor:
    """Measure mean and deviation of every channel of image latents.

    Args:
        z0 (Tensor): Image latents, shape (B, C, h, w).

    Returns:
        Tensor: Means, then deviations, shape (B, 2 C).
    """
    std, mean = torch.std_mean(z0.float(), (-2, -1), unbiased=False)
    return torch.cat([mean, std], 1)


@MODELS.register_module()
@checked
class StyleToken(BaseModule):
    """Tell the network mean and deviation of the image's latent.

    A mask does not say how bright or how colourful its picture is: without this the
    network has to guess the mean of all, and the noise has to decide it. They become a
    token behind the prompt or, for a UNet with ``class_embed_type='identity'``, an
    embedding that is added to that of time: a network from nothing learns more surely
    to see it. Either is dropped for a part of the training, and always at t = 0, where
    segmentation begins: that gets a zero, and stays deterministic.

    The styles of the latest training pictures are kept in the checkpoint, with the
    means of their mask latents; synthesis draws one of those whose masks are most
    alike. Not in the paper.

    Args:
        latent_channels (int): Number of channels C of the latents.
        token_channels (int): Number of channels of a token, the UNet's
            ``cross_attention_dim``, or of its embedding of time, 4 times the first of
            its ``block_out_channels``.
        dropout (float): Part of the samples in [0, 1) whose token is dropped.
            Defaults to 0.5.
        num_styles (int): How many styles are kept. Defaults to 256.
        num_alike (int): Among how many of them, those of the masks most alike,
            synthesis draws. Defaults to 16.
        as_embedding (bool): Whether it is added to the UNet's embedding of time,
            which wants ``class_embed_type='identity'``. Defaults to False, a token
            behind the prompt.

    Raises:
        ValueError: If an argument breaks its rule.
    """

    targets = ('velocity', )
    # Synthesis draws from it.
    stochastic = True

    def __init__(self,
                 latent_channels: int,
                 token_channels: int,
                 dropout: float = 0.5,
                 num_styles: int = 256,
                 num_alike: int = 16,
                 as_embedding: bool = False) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f'dropout must be in [0, 1), but got {dropout}')
        if not 1 <= num_alike <= num_styles:
            raise ValueError('num_alike must be in [1, num_styles], but got '
                             f'num_alike={num_alike}, num_styles={num_styles}')
        self.dropout = dropout
        self.num_alike = num_alike
        self.as_embedding = as_embedding
        if as_embedding:
            # The UNet has no weights of its own that would tell.
            self.register_buffer('is_embedding', torch.ones(()))
        self.project = nn.Sequential(
            nn.Linear(2 * latent_channels, 4 * token_channels), nn.SiLU(),
            nn.Linear(4 * token_channels, token_channels))
        # Begins as the null token, as a pretrained network knows it.
        nn.init.zeros_(self.project[-1].weight)
        nn.init.zeros_(self.project[-1].bias)
        self.register_buffer('styles', torch.zeros(num_styles, 2 * latent_channels))
        self.register_buffer('masks', torch.zeros(num_styles, latent_channels))
        self.register_buffer('num_seen', torch.zeros((), dtype=torch.long))

    def check_network(self, network: nn.Module) -> None:
        """Raise a ValueError unless a network takes such a token or embedding."""
        if self.as_embedding:
            if not getattr(network, 'takes_embedding', False):
                raise ValueError('StyleToken with as_embedding needs a VelocityUNet '
                                 "with class_embed_type='identity', but the network "
                                 f'is a {type(network).__name__} without')
            wanted = network.embedding_channels
        elif not hasattr(network, 'null_prompt'):
            raise ValueError('StyleToken needs a network with a prompt, but this '
                             f'{type(network).__name__} has none: take StyleToken out '
                             'of wrappers, or another network')
        else:
            wanted = network.null_prompt.shape[-1]
        own = self.project[-1].out_features
        if own != wanted:
            raise ValueError(f'token_channels of StyleToken must be {wanted}, as the '
                             f'network has it, but got {own}')

    @torch.no_grad()
    def training_condition(self,
                           z0: Tensor,
                           z1: Tensor,
                           t: Tensor,
                           label_maps: Optional[Tensor] = None) -> Dict[str, Tensor]:
        """Make the condition of a training batch, and remember its styles.

        Args:
            z0 (Tensor): Image latents, shape (B, C, h, w).
            z1 (Tensor): Mask latents, shape (B, C, h, w).
            t (Tensor): Flow times, shape (B, ).
            label_maps (Tensor, optional): Not used. Defaults to None.

        Returns:
            Dict[str, Tensor]: ``style``, (B, 2 C), and ``has_style``, (B, ).
        """
        style = latent_style(z0)
        if self.training:
            places = torch.arange(len(z0), device=z0.device) + self.num_seen
            places %= len(self.styles)
            self.styles.index_copy_(0, places, style)
            self.masks.index_copy_(0, places, z1.float().mean((-2, -1)))
            self.num_seen += len(z0)
        kept = torch.rand(len(z0), device=z0.device) >= self.dropout
        return dict(style=style, has_style=kept & (t > 0))

    @torch.no_grad()
    def sampling_condition(self,
                           z1: Tensor,
                           label_maps: Optional[Tensor] = None,
                           generators: Generators = None) -> Dict[str, Tensor]:
        """Draw styles of training pictures whose masks are like these.

        Args:
            z1 (Tensor): Mask latents, shape (B, C, h, w).
            label_maps (Tensor, optional): Not used. Defaults to None.
            generators (Sequence[torch.Generator], optional): One per sample, whose
                seeds alone are used. Defaults to None, torch's global one.

        Returns:
            Dict[str, Tensor]: ``style``, (B, 2 C); none where no training picture
            was seen yet.
        """
        count = min(int(self.num_seen), len(self.styles))
        if not count:
            return {}
        distances = torch.cdist(z1.float().mean((-2, -1)), self.masks[:count])
        alike = distances.argsort(stable=True, dim=1)[:, :self.num_alike].cpu()
        if generators is None:
            picks = torch.randint(alike.shape[1], (len(z1), ))
        else:
            # What follows draws noise from them as if this had not been.
            picks = torch.tensor([
                generator.initial_seed() % alike.shape[1]
                for generator in generators
            ])
        return dict(style=self.styles[alike.gather(1, picks[:, None])[:, 0]])

    @torch.no_grad()
    def condition_of(self, z0: Tensor) -> Dict[str, Tensor]:
        """Make the condition of pictures that look like given ones.

        Args:
            z0 (Tensor): Image latents, shape (B, C, h, w).

        Returns:
            Dict[str, Tensor]: ``style``, (B, 2 C).
        """
        return dict(style=latent_style(z0))

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
            condition (Dict[str, Tensor], optional): ``style``, (B, 2 C), and
                ``has_style``, (B, ), by default all; what else it has is passed on.
                Defaults to None, the null token.

        Returns:
            Tensor: dz/dt, shape (B, C, h, w).
        """
        condition = dict(condition or {})
        style = condition.pop('style', None)
        kept = condition.pop('has_style', None)
        if style is None:
            token = zt.new_zeros(len(zt), self.project[-1].out_features)
        else:
            token = self.project(style)
            if kept is not None:
                token = token * kept[:, None]
        if self.as_embedding:
            condition['embedding'] = token
        else:
            condition['token'] = token[:, None]
        return network(zt, t, condition)
