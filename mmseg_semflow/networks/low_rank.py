"""Low-rank adapters of a network, and the base that they belong to."""

from typing import TYPE_CHECKING, Dict, Optional, Sequence

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily

from mmseg_semflow.arguments import checked
from mmseg_semflow.extras import MissingExtraError
from mmseg_semflow.registry import BaseModule

from .pretrained import digest_weights, plain_names

if TYPE_CHECKING:
    from diffusers import ModelMixin

# The projections of attentions, by the ends of their names.
ATTENTION = ('to_q', 'to_k', 'to_v', 'to_out.0')
# Bytes of a SHA-256, and of the name behind it.
DIGEST, NAME = 32, 224


@checked
class LowRankAdapter(nn.Module):
    r"""Train low-rank changes of a network's layers, by peft through diffusers.

    LoRA (Hu et al., ICLR 2022): a layer of weight W becomes one of

    .. math:: W' = W + \frac{\alpha}{r} B A,

    where W is frozen, A begins random and B as zero. A and B are put into the network;
    this module keeps, for the checkpoint, which base they belong to.

    Args:
        core (ModelMixin): A UNet or transformer of diffusers, changed in place.
        rank (int): Rank r of the changes.
        alpha (float, optional): Defaults to None, the rank, so that the factor
            is 1.
        targets (Sequence[str]): Ends of the names of the layers that are changed,
            linear ones and convolutions. Defaults to the projections of queries,
            keys, values and outputs by diffusers' usual names; those of a prompt's
            own tokens (``add_q_proj``) and of FLUX.2's blocks of one stream have
            other ones.
        swap (bool): Whether the adapter of a checkpoint may be moved onto another
            base than that it was trained upon. Defaults to False.

    Raises:
        ValueError: If an argument breaks its rule, the network has no layer of one of
            the names, or diffusers has no adapters of its class.
        MissingExtraError: If peft cannot be imported.
    """

    def __init__(self,
                 core: 'ModelMixin',
                 rank: int,
                 alpha: Optional[float] = None,
                 targets: Sequence[str] = ATTENTION,
                 swap: bool = False) -> None:
        super().__init__()
        if not isinstance(rank, int) or rank < 1:
            raise ValueError(f'lora.rank must be an integer >= 1, but got {rank!r}')
        alpha = rank if alpha is None else alpha
        if not alpha > 0:
            raise ValueError(f'lora.alpha must be > 0, but got {alpha}')
        if isinstance(targets, str) or not targets:
            raise ValueError('lora.targets must be a list of ends of names of '
                             f'layers, but got {targets!r}')
        if not hasattr(core, 'add_adapter'):
            raise ValueError(f'diffusers has no adapters of {type(core).__name__}: '
                             'leave out lora')
        names = [name for name, layer in core.named_modules()
                 if isinstance(layer, (nn.Linear, nn.Conv2d))]
        chosen = [name for name in names
                  if f'.{name}'.endswith(tuple(f'.{target}' for target in targets))]
        for target in targets:
            if not any(f'.{name}'.endswith(f'.{target}') for name in chosen):
                raise ValueError(
                    'lora.targets must be ends of names of linear layers or '
                    f'convolutions of the network, but got {target!r}; there is for '
                    f'example {names[-1]!r}')
        try:
            from peft import LoraConfig
        except ImportError as error:
            raise MissingExtraError('lora of a network', 'peft', 'lora',
                                    error) from error
        without_data = isinstance(next(core.parameters()), FakeTensor)
        core.requires_grad_(False)
        # peft moves what it makes, which tensors without data refuse.
        with unset_fake_temporarily():
            try:
                core.add_adapter(
                    LoraConfig(r=rank, lora_alpha=alpha, target_modules=chosen))
            except ValueError as error:
                raise ValueError(
                    f'peft has no adapter of rank {rank} for one of lora.targets, '
                    f'{list(targets)}: {error}') from error
        if without_data:
            _drop_data(core)
        self.swap = swap
        # In the state dict, so that a checkpoint knows what it changes, how much.
        self.register_buffer('scale', torch.tensor(alpha / rank))
        self.register_buffer('base', torch.zeros(DIGEST + NAME, dtype=torch.uint8))

    @torch.no_grad()
    def note_base(self, core: 'ModelMixin', source: str) -> None:
        """Remember the weights that the network has now as the base.

        Args:
            core (ModelMixin): The network.
            source (str): Where they come from, for errors.
        """
        base = base_weights(core)
        if isinstance(next(iter(base.values())), FakeTensor):
            return  # without data, see headers_alone
        # Rounded, so that a base that was stored in half the bytes is the same.
        digest = bytes.fromhex(digest_weights(base, torch.bfloat16))
        # The end of a long path says more than its beginning.
        name = source.encode()[-NAME:].ljust(NAME, b'\0')
        self.base.copy_(torch.tensor(list(digest + name), dtype=torch.uint8))

    def accept(self, state_dict: Dict[str, Tensor], prefix: str) -> None:
        """Check that an adapter fits; the network keeps its base.

        Args:
            state_dict (Dict[str, Tensor]): What is to be loaded, changed in place.
            prefix (str): What stands before the keys of this module.

        Raises:
            ValueError: If it is of another base and ``swap`` is not set, or of
                another alpha.
        """
        found = {name: state_dict.get(f'{prefix}{name}') for name in ('base', 'scale')}
        for name, value in found.items():
            if value is None:
                raise ValueError(f'not a checkpoint of an adapter: it has no '
                                 f'{prefix}{name}')
        if not torch.isclose(found['scale'].cpu().float(), self.scale.cpu(), 1e-2):
            raise ValueError(
                'the adapter was trained with lora.alpha / lora.rank = '
                f"{float(found['scale']):g}, but this config has "
                f'{float(self.scale):g}: they must be the same')
        same = torch.equal(found['base'][:DIGEST].cpu(), self.base[:DIGEST].cpu())
        if not same and not self.swap:
            raise ValueError(
                f'the adapter was trained upon {describe_base(found["base"])}, but '
                f'the base of this config is {describe_base(self.base)}: name that '
                'base by unet_weights or sd_folder of the network, or set lora.swap='
                'True there to move the adapter onto this one')
        state_dict.update({f'{prefix}{name}': value
                           for name, value in self.named_buffers()})


def _drop_data(core: 'ModelMixin') -> None:
    """Make the adapters of a network without data tensors without data."""
    for module in core.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            if not isinstance(weight, FakeTensor):
                setattr(module, name, nn.Parameter(torch.empty(weight.shape)))


def base_weights(core: 'ModelMixin') -> Dict[str, Tensor]:
    """Give the weights of a network without its adapters, by its own names."""
    state_dict = core.state_dict()
    return {name: state_dict[key] for name, key in plain_names(state_dict).items()}


def describe_base(base: Tensor) -> str:
    """Tell name and digest of a base, as a checkpoint has them.

    Args:
        base (Tensor): See :class:`LowRankAdapter`, uint8.

    Returns:
        str: For an error.
    """
    content = bytes(base.tolist())
    if not any(content):
        return 'a base that nobody noted'
    name = content[DIGEST:].rstrip(b'\0').decode(errors='replace')
    return f'{name} (SHA-256 {content[:8].hex()}...)'


class AdaptableNetwork(BaseModule):
    """A network of diffusers, with all its weights or with an adapter upon a base.

    Attributes:
        part (str): The name of the network of diffusers in this module.
        lora (LowRankAdapter | None): The adapter.
    """

    part: str

    @property
    def core(self) -> 'ModelMixin':
        """ModelMixin: The network of diffusers."""
        return getattr(self, self.part)

    @property
    def base(self) -> Optional[str]:
        """str, optional: Digest of the base of an adapter, 16 digits."""
        return None if self.lora is None else bytes(self.lora.base[:8].tolist()).hex()

    def adapt(self, lora: Optional[dict]) -> None:
        """Train an adapter alone, by arguments of :class:`LowRankAdapter`, if any."""
        self.lora = None if lora is None else LowRankAdapter(self.core, **lora)
        # Also where mmengine collects the state dict.
        self._register_state_dict_hook(_leave_out_base)

    def load_core(self) -> None:
        """Load the weights that the config names, those of the base of an adapter.

        Raises:
            FileNotFoundError: If they are not there.
            ValueError: If they are of another architecture, or there are none for an
                adapter to change.
        """
        source = self._load_core()
        if self.lora is None:
            return
        if source is None:
            raise ValueError(
                'lora changes weights that are there already: name them by sd_folder '
                'of the network, or unet_weights of a UNet, but got neither')
        self.lora.note_base(self.core, source)

    def _load_core(self) -> Optional[str]:
        """Load them and tell where they come from; None: there are none."""
        raise NotImplementedError

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args,
                              **kwargs) -> None:
        """Load the adapter upon the base that the config names."""
        if self.lora is not None:
            if not self.lora.base.any():
                self.load_core()
            self.lora.accept(state_dict, f'{prefix}lora.')
            own = self.core.state_dict(prefix=f'{prefix}{self.part}.')
            state_dict.update({key: own[key] for key in plain_names(own).values()})
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def merge_lora(self) -> None:
        """Add the adapter to its base: from now on it has all weights again."""
        if self.lora is not None:
            self.core.fuse_lora()
            self.core.unload_lora()
            self.core.requires_grad_(True)
            self.lora = None


def _leave_out_base(module: AdaptableNetwork, state_dict: dict, prefix: str,
                    local_metadata: dict) -> None:
    """Take the frozen base of an adapter out of a state dict."""
    if module.lora is not None:
        inside = f'{prefix}{module.part}.'
        for key in plain_names(list(state_dict)).values():
            if key.startswith(inside):
                del state_dict[key]
