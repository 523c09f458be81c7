"""What a training will cost, computed without a GPU: memory and FLOPs.

Both run the real networks on tensors without data (``FakeTensorMode``), at
full size, in seconds.
"""

import weakref
from contextlib import contextmanager, nullcontext
from typing import Any, Dict, Iterator, Optional, Sequence, Tuple

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, OPTIMIZERS
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from mmseg_semflow.arguments import both_sides

from .loading import innermost

Size = Tuple[int, int]


def training_size(cfg: Config) -> Size:
    """Find the height and width of the training images in a config.

    Raises:
        ValueError: If neither the data preprocessor nor the training pipeline
            gives one.
    """
    size = cfg.model.get('data_preprocessor', {}).get('size')
    dataset = innermost(cfg.train_dataloader.dataset)
    for transform in dataset.get('pipeline', ()):
        if transform['type'] == 'RandomCrop':
            size = size or transform['crop_size']
    for transform in dataset.get('pipeline', ()):
        if transform['type'] == 'Resize' and transform.get('scale'):
            size = size or tuple(both_sides(transform['scale']))[::-1]
    size = size or dataset.get('generate', {}).get('size')
    if size is None:
        raise ValueError(
            'the config does not say how large training images are: its '
            'train_pipeline has no RandomCrop and no Resize with a scale. '
            'Give the size')
    return (size, size) if isinstance(size, int) else tuple(size)


class PeakMemory(TorchDispatchMode):
    """Count the bytes of the tensors that live at once.

    Counts every tensor that an operator returns, from then until it is freed,
    and nothing that was there before. Works on fake tensors as well.

    Attributes:
        live (int): Bytes that live now.
        peak (int): The most that lived at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known = weakref.WeakSet()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        outside = [
            leaf.untyped_storage() for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, Tensor)
        ]
        result = func(*args, **(kwargs or {}))
        old = {storage._cdata for storage in outside}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                # A view or an argument that was changed in place.
                if storage._cdata not in old:
                    self._add(storage)
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._remove, size)

    def _remove(self, size: int) -> None:
        self.live -= size


class FakeStep:
    """The networks of a config as tensors without data, and their step.

    Args:
        cfg (Config): A config of this package.
        batch_size (int, optional): Defaults to None, that of the config.
        size (Tuple[int, int], optional): Height and width of the images.
            Defaults to None, those of the config.

    Raises:
        ValueError: If the config's model is none of SemFlow.
    """

    def __init__(self,
                 cfg: Config,
                 batch_size: Optional[int] = None,
                 size: Optional[Size] = None) -> None:
        semflow = cfg.model.get('semflow')
        if semflow is None:
            raise ValueError('costs are known for models with a semflow part, '
                             f'but got model.type={cfg.model.type!r}')
        self.batch_size = batch_size or cfg.train_dataloader.batch_size
        self.size = size or training_size(cfg)
        self.decodes = any(loss['type'].startswith('OneStep')
                           for loss in semflow.get('losses') or ())
        self.dtype = amp_dtype(cfg)
        self.mode = FakeTensorMode()
        with self.mode:
            self.network = MODELS.build(semflow.network).train()
            self.autoencoder = MODELS.build(semflow.autoencoder)
            for module in self.network.modules():
                if isinstance(module, (nn.GroupNorm, nn.LayerNorm)):
                    # As CUDA's autocast has it; that of the CPU would stay in
                    # bfloat16 and save half of these activations.
                    module.register_forward_pre_hook(
                        lambda _, args: tuple(a.float() for a in args))

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Enter what the optimizer wrapper of the config computes in."""
        with self.mode, nullcontext() if self.dtype is None else \
                torch.autocast('cpu', dtype=self.dtype):
            yield

    def encode(self) -> Tensor:
        """Encode a batch of images and pseudo masks."""
        pixels = torch.empty(self.batch_size, 3, *self.size)
        return self.autoencoder.encode(torch.cat([pixels, pixels])).mean

    def latent(self) -> Tensor:
        """Make latents such as the network receives."""
        shape = [side // self.autoencoder.factor for side in self.size]
        return torch.empty(self.batch_size, self.network.in_channels, *shape)

    def forward(self) -> Tensor:
        """Compute the loss from latents."""
        zt = self.latent()
        pred = self.network(zt, torch.empty(self.batch_size))
        loss = pred.square().mean()
        if self.decodes:
            loss = loss + self.autoencoder.decode(
                pred[:, :self.autoencoder.latent_channels]).mean()
        return loss


def amp_dtype(cfg: Config) -> Optional[torch.dtype]:
    """Tell what the config's optimizer wrapper computes in; None: float32."""
    wrapper = cfg.get('optim_wrapper', {})
    if wrapper.get('type') not in ('AmpOptimWrapper', 'AutocastOptimWrapper'):
        return None
    name = wrapper.get('dtype') or 'float16'
    return None if name == 'float32' else getattr(torch, name)


def estimate_training_memory(cfg: Config,
                             batch_size: Optional[int] = None,
                             size: Optional[Size] = None,
                             distributed: bool = True) -> Dict[str, int]:
    """Estimate the memory of a training on one GPU, in bytes by part.

    The step runs on tensors without data, in the config's precision and with
    or without its gradient checkpointing, while the bytes that live at once
    are counted. Not in it: what CUDA and its libraries take for themselves (1
    to 3 GB), fragmentation, and the logits of a one-step loss.

    Args:
        cfg (Config): A config of this package.
        batch_size (int, optional): Images per GPU. Defaults to None, that of
            the config.
        size (Tuple[int, int], optional): Height and width of the images.
            Defaults to None, those of the config.
        distributed (bool): Whether to count the buckets of DDP, as large as
            the gradients. Defaults to True.

    Returns:
        Dict[str, int]: ``parameters``, ``gradients``, ``optimizer``, ``ema``,
        ``autoencoder``, ``ddp_buckets``, ``activations`` (what the encoding,
        forward and backward pass, or the optimizer's step need besides, at
        their worst moment) and ``total``, their sum.

    Raises:
        ValueError: If the config does not say how large the images are.
    """
    step = FakeStep(cfg, batch_size, size)
    parameters = _bytes_of(step.network)
    trained = sum(p.nbytes for p in step.network.parameters() if p.requires_grad)
    memory = dict(
        parameters=parameters,
        gradients=trained,
        optimizer=round(trained * _state_factor(cfg.optim_wrapper.optimizer)),
        autoencoder=_bytes_of(step.autoencoder),
        ema=0,
        ddp_buckets=trained if distributed else 0)
    if any(hook['type'] == 'EMAHook' for hook in cfg.get('custom_hooks', ())):
        memory['ema'] = parameters + memory['autoencoder']
    peaks = []
    with step.autocast():
        with PeakMemory() as counter:
            step.encode()
        peaks.append(counter.peak - trained)
    with step.autocast(), PeakMemory() as counter:
        loss = step.forward()
    with step.mode, counter:
        loss.backward()
    peaks.append(counter.peak - trained)
    optimizer = cfg.optim_wrapper.optimizer
    if optimizer.type in ('Adam', 'AdamW') and not optimizer.get(
            'fused') and optimizer.get('foreach') is not False:
        # On a GPU torch then has the roots of all second moments at once.
        peaks.append(trained)
    memory['activations'] = max(0, *peaks)
    memory['total'] = sum(memory.values())
    return memory


def _bytes_of(module: nn.Module) -> int:
    return sum(t.nbytes for t in (*module.parameters(), *module.buffers()))


def _state_factor(optimizer: dict) -> float:
    """Tell how many numbers an optimizer keeps for a parameter.

    It is tried on a matrix: both are as large for one of any other shape.
    """
    weight = nn.Parameter(torch.ones(8, 8))
    weight.grad = torch.ones(8, 8)
    built = OPTIMIZERS.build(dict(optimizer, params=[weight]))
    built.step()
    return sum(
        state.numel() for state in built.state[weight].values()
        if isinstance(state, Tensor) and state.shape == weight.shape) / 64


def count_flops(cfg: Config, size: Optional[Size] = None) -> Dict[str, int]:
    """Count the floating point operations that the model needs per image.

    A multiplication and an addition are two. These are the model's: what
    gradient checkpointing computes again is not counted, nor what is not a
    matrix product or a convolution.

    Args:
        cfg (Config): A config of this package.
        size (Tuple[int, int], optional): Height and width of the images.
            Defaults to None, those of the config.

    Returns:
        Dict[str, int]: ``encode`` (image and mask), ``network`` (one call),
        ``training`` (forward and backward pass from latents on) and
        ``decode``.
    """
    step = FakeStep(cfg, 1, size)
    for module in step.network.modules():
        module.gradient_checkpointing = False

    def train() -> None:
        step.forward().backward()

    @torch.no_grad()
    def call() -> None:
        step.network(step.latent(), torch.empty(1))

    @torch.no_grad()
    def decode() -> None:
        channels = step.autoencoder.latent_channels
        step.autoencoder.decode(step.latent()[:, :channels])

    # torch's own counts a convolution in groups as if it had one.
    formulas = {
        torch.ops.aten.convolution_backward: _flops_of_convolution_backward
    }
    flops = {}
    for name, part in dict(
            encode=step.encode, network=call, training=train,
            decode=decode).items():
        # The formulas know plain attention alone on every device.
        with step.mode, sdpa_kernel(SDPBackend.MATH), FlopCounterMode(
                display=False, custom_mapping=formulas) as counter:
            part()
        flops[name] = counter.get_total_flops()
    return flops


def _flops_of_convolution_backward(
        grad_shape: Sequence[int], x_shape: Sequence[int], w_shape: Sequence[int],
        bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool,
        output_padding: Any, groups: int, wanted: Sequence[bool], **_: Any) -> int:
    """Count those of the gradients for input and weight, each as many as forward."""
    return sum(wanted[:2]) * conv_flop_count(x_shape, w_shape, grad_shape, transposed)
