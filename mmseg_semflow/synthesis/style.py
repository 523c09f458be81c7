"""Styles: what all synthesised pictures shall look like."""

import hashlib
import logging
from abc import ABC, abstractmethod
from pathlib import Path
from typing import (
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    Union,
)
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from mmseg_semflow.arguments import checked
from mmseg_semflow.flow import Condition, Network
from mmseg_semflow.models import SemFlowModel
from mmseg_semflow.registry import MODELS

from .pictures import list_pictures, read_rgb

# Deviation below which a channel counts as flat, in the units of latents.
MIN_STD = 1e-5


def check_velocity(semflow: SemFlowModel, user: str) -> None:
    """Raise a ValueError unless a network predicts a rectified flow's velocity.

    Args:
        semflow (SemFlowModel): The model.
        user (str): What needs the straight path.
    """
    process = semflow.process
    if process.target != 'velocity' or len(process.outputs) != 1:
        raise ValueError(
            f'{user} is derived for networks that predict the velocity of a '
            f'rectified flow, but that of {type(process).__name__} predicts '
            f'{process.target}')


class Style(ABC):
    """Change the velocity, so that pictures look in another way."""

    def choose(self, label_map: Tensor, number: int, seed: int) -> Any:
        """Choose what only one sample gets.

        Args:
            label_map (Tensor): Labels, int64, shape (H, W).
            number (int): Which of the samples, from 0.
            seed (int): That of the synthesis.

        Returns:
            Any: What :meth:`wrap` and :meth:`record` take; by default None, nothing.
        """
        return None

    @abstractmethod
    def wrap(self,
             network: Network,
             label_maps: Sequence[Tensor] = (),
             choices: Sequence[Any] = ()) -> Network:
        """Make another network of the network.

        Args:
            network (Callable): Maps the state zt, (B, C, h, w), of whole
                pictures, the flow time t, float32 in [0, 1] of shape (B, ),
                and a condition to the velocity.
            label_maps (Sequence[Tensor]): Labels of the B pictures, in their size,
                int64, shape (H, W). Defaults to none, for styles that do not depend
                on them.
            choices (Sequence[Any]): What :meth:`choose` chose for each. Defaults to
                none, for styles that choose nothing.

        Returns:
            Callable: A network of the same arguments and results.
        """

    def condition(self, numbers: Sequence[int]) -> Condition:
        """Tell what the network shall know besides.

        Args:
            numbers (Sequence[int]): Which of their samples the pictures of a batch
                are, from 0.

        Returns:
            Dict[str, Tensor], optional: For all of them; by default None, nothing.
        """
        return None

    def record(self, number: int, choice: Any = None) -> dict:
        """Tell what is special to a sample.

        Args:
            number (int): Which of the samples, from 0.
            choice (Any): What :meth:`choose` chose for it. Defaults to None, nothing.

        Returns:
            dict: As json has it; by default nothing.
        """
        return {}

    @property
    @abstractmethod
    def settings(self) -> dict:
        """dict: What a picture depends on, as json has it."""

    def check_model(self, semflow: SemFlowModel) -> None:
        """Raise a ValueError if it does not fit a model."""
        check_velocity(semflow, type(self).__name__)


@MODELS.register_module()
class LatentStatistics(Style):
    r"""Give image latents the mean and the deviation of reference pictures.

    Adaptive instance normalisation (Huang and Belongie, ICCV 2017) of the
    image that the velocity leads to, in every channel, blended by the strength
    :math:`\alpha`, at every call with t > 0:

    .. math::
        z_0 = z_t - t v, \quad
        z_0' = z_0 + \alpha \left(\sigma \frac{z_0 - \mu(z_0)}{\sigma(z_0)}
        + \mu - z_0\right), \quad
        v' = \frac{z_t - z_0'}{t}

    At t = 0, where the last stage of a solver of higher order asks, v stays.
    A channel without deviation gets the mean alone. Without a mean
    :math:`\mu(z_0)` stays, and so the light of every sample.

    A network that does not know which picture belongs to a mask leads to a mean of
    many, whose deviation is too small: the statistics of the training pictures, as
    :attr:`Synthesizer.style` of a config, give it back.

    Args:
        mean (Tensor | Sequence[float] | None): Mean of the reference's latents,
            shape (C, ). None leaves each picture its own.
        std (Tensor | Sequence[float]): Their deviation about it, at least 0, shape
            (C, ); without a mean that within a picture.
        strength (float): How much of it, in [0, 1]. Defaults to 1.
        source (str, optional): Digest of what they were measured on, for the
            notes of pictures. Defaults to None, that of the numbers, which
            another device may round otherwise.

    Raises:
        ValueError: If an argument breaks its rule.
    """

    def __init__(self,
                 mean: Optional[Union[Tensor, Sequence[float]]],
                 std: Union[Tensor, Sequence[float]],
                 strength: float = 1.,
                 source: Optional[str] = None) -> None:
        std = torch.as_tensor(std)
        mean = None if mean is None else torch.as_tensor(mean)
        given = [std] if mean is None else [mean, std]
        if std.ndim != 1 or given[0].shape != std.shape:
            shapes = ' and '.join(str(tuple(x.shape)) for x in given)
            raise ValueError('std, and mean but for None, must be of one shape '
                             f'(C, ), but got {shapes}')
        if not all(x.isfinite().all() for x in given) or (std < 0).any():
            raise ValueError('mean and std must be finite and std >= 0, but got '
                             f'{mean if mean is None else mean.tolist()} and '
                             f'{std.tolist()}')
        check_strength(strength)
        self.mean = mean
        self.std = std
        self.strength = float(strength)
        numbers = torch.stack(given).cpu().double().numpy()
        self.source = source or hashlib.sha256(numbers.tobytes()).hexdigest()[:16]

    @classmethod
    @torch.no_grad()
    def of_pictures(
        cls,
        semflow: SemFlowModel,
        path: Union[str, Path],
        strength: float = 1.,
        size: Optional[Tuple[int, int]] = None
    ) -> Tuple['LatentStatistics', Dict[str, str]]:
        """Measure a reference picture, or all of a folder and its subfolders.

        Mean and deviation are those over all cells of all pictures.

        Args:
            semflow (SemFlowModel): Its autoencoder encodes them.
            path (str | Path): A file or a folder.
            strength (float): See the class. Defaults to 1.
            size (Tuple[int, int], optional): Height and width in pixels to
                which they are resized first, that of the synthesis. Defaults
                to None, their own sizes.

        Returns:
            Tuple[LatentStatistics, Dict[str, str]]: The style, and the pictures
            that could not be read, with the reason; it is that of all others.

        Raises:
            FileNotFoundError: If there is nothing at the path.
            ValueError: If there is no picture that can be read, the strength
                breaks its rule, or the network of the process does not predict
                the velocity of a rectified flow.
        """
        # Before what takes long.
        check_velocity(semflow, cls.__name__)
        check_strength(strength)
        failed: Dict[str, str] = {}
        source = hashlib.sha256(repr(size and tuple(size)).encode())
        count, sums = 0, torch.zeros(2, semflow.autoencoder.latent_channels).double()
        for file, _, z0 in encoded_pictures(semflow, path, size, failed):
            source.update(file.read_bytes())
            cells = z0[0].flatten(1).cpu().double()
            sums += torch.stack([cells.sum(1), cells.square().sum(1)])
            count += cells.shape[1]
        mean, square = sums / count
        std = (square - mean.square()).clamp(min=0).sqrt()
        return cls(mean.float(), std.float(), strength,
                   source.hexdigest()[:16]), failed

    @property
    def settings(self) -> dict:
        """dict: See :attr:`Style.settings`."""
        return dict(
            type=type(self).__name__, strength=self.strength, source=self.source)

    def check_model(self, semflow: SemFlowModel) -> None:
        """See :meth:`Style.check_model`."""
        super().check_model(semflow)
        channels = semflow.autoencoder.latent_channels
        if len(self.std) != channels:
            raise ValueError(
                f'the style must have the statistics of {channels} channels, as '
                f'the latents of the model, but got {len(self.std)}')

    def wrap(self,
             network: Network,
             label_maps: Sequence[Tensor] = (),
             choices: Sequence[Any] = ()) -> Network:
        """See :meth:`Style.wrap`."""
        return move_ends(
            network, lambda z0: self.strength * (self._normalize(z0) - z0))

    def _normalize(self, z0: Tensor) -> Tensor:
        std = self.std.to(z0).view(-1, 1, 1)
        mean = None if self.mean is None else self.mean.to(z0).view(-1, 1, 1)
        return renormalized(z0, mean, std, (-2, -1))


def move_ends(network: Network, change: Callable[[Tensor], Tensor]) -> Network:
    """Let a velocity lead to another image.

    Args:
        network (Callable): See :meth:`Style.wrap`.
        change (Callable): Tells what is added to the image latents, (B, C, h, w), that
            the velocity leads to.

    Returns:
        Callable: The network, whose velocity at t = 0 stays.
    """

    def styled(zt: Tensor, t: Tensor, condition: Condition = None) -> Tensor:
        velocity = network(zt, t, condition)
        s = t.view(-1, 1, 1, 1)
        return velocity - change(zt - s * velocity) / s.masked_fill(s == 0, torch.inf)

    return styled


def renormalized(values: Tensor, mean: Optional[Tensor], std: Tensor,
                 dim: Union[int, Tuple[int, ...]]) -> Tensor:
    """Give values another mean, None for their own, and deviation along dimensions."""
    own_std, own_mean = torch.std_mean(values, dim, unbiased=False, keepdim=True)
    return (values - own_mean) / own_std.clamp(min=MIN_STD) * std + (
        own_mean if mean is None else mean)


class TextStyle(Style):
    """Tell what pictures shall look like by words, such as ``'foggy weather'``.

    They follow the words of the training, in the prompt of a :class:`TextPrompt`.
    Of several texts, sample number i gets number i modulo their count.

    Args:
        semflow (SemFlowModel): The model.
        texts (Sequence[str]): The texts; '' adds nothing.

    Raises:
        FileNotFoundError: If the text encoder is not where the config says.
        ValueError: If the model knows no text, or a text breaks a rule of
            :meth:`TextPrompt.encode_texts`.
    """

    def __init__(self, semflow: SemFlowModel, texts: Sequence[str]) -> None:
        if isinstance(texts, str) or not texts:
            raise ValueError(f'texts must be a list of texts, but got {texts!r}')
        self.texts = list(texts)
        self.check_model(semflow)
        reader = next(w for w in semflow.wrappers if hasattr(w, 'encode_texts'))
        self.embeddings = reader.encode_texts(self.texts)

    def check_model(self, semflow: SemFlowModel) -> None:
        """See :meth:`Style.check_model`."""
        if not any(hasattr(w, 'encode_texts') for w in semflow.wrappers):
            raise ValueError(
                f'texts {self.texts} are for a model that was trained with them, but '
                'the wrappers of this config have no TextPrompt')

    @property
    def settings(self) -> dict:
        """dict: See :attr:`Style.settings`."""
        return dict(type=type(self).__name__, texts=self.texts)

    def wrap(self,
             network: Network,
             label_maps: Sequence[Tensor] = (),
             choices: Sequence[Any] = ()) -> Network:
        """See :meth:`Style.wrap`; the condition is all that changes."""
        return network

    def condition(self, numbers: Sequence[int]) -> Condition:
        """See :meth:`Style.condition`."""
        return dict(text=self.embeddings[[n % len(self.texts) for n in numbers]])

    def record(self, number: int, choice: Any = None) -> dict:
        """See :meth:`Style.record`."""
        return dict(style_text=self.texts[number % len(self.texts)])


# What references were encoded to: a synthesizer is made for every few pictures.
REFERENCES: 'WeakKeyDictionary[SemFlowModel, dict]' = WeakKeyDictionary()


class References(NamedTuple):
    """Names of reference pictures, what each gives, a digest, the unreadable."""

    names: List[str]
    styles: Sequence[Any]
    source: str
    failed: Dict[str, str]


@MODELS.register_module()
@checked
class TokenStyle(Style):
    """Give pictures the style tokens of reference pictures, in turn.

    For a model that was trained with a :class:`StyleToken`, which then gets mean and
    deviation of the latents of a reference in place of those of a training picture.
    Of several references, sample number i gets number i modulo their count. They are
    encoded once for a model, when the first picture is drawn or the first attribute
    is read. Unreadable ones are logged, and the others used.

    Args:
        pictures (str | Path): A file, or a folder with its subfolders.
        size (Tuple[int, int], optional): Height and width in pixels to which they are
            resized first. Defaults to None, their own sizes.

    Raises:
        FileNotFoundError: If there is nothing at the path, when they are encoded.
        ValueError: If the size breaks its rule; when a model is checked, if it has no
            ``StyleToken``; when they are encoded, if none can be read.
    """

    def __init__(self,
                 pictures: Union[str, Path],
                 size: Optional[Tuple[int, int]] = None) -> None:
        check_size(size)
        self.pictures = Path(pictures)
        self.size = size and tuple(size)
        self._semflow: Optional[SemFlowModel] = None

    def check_model(self, semflow: SemFlowModel) -> None:
        """See :meth:`Style.check_model`."""
        self._token = next(
            (w for w in semflow.wrappers if hasattr(w, 'condition_of')), None)
        if self._token is None:
            raise ValueError(
                f'the style token of {self.pictures} is for a model that was trained '
                'with tokens, but the wrappers of this config have no StyleToken')
        self._semflow = semflow

    @torch.no_grad()
    def _references(self) -> References:
        of_model = REFERENCES.setdefault(self._semflow, {})
        key = str(self.pictures), self.size
        if key not in of_model:
            found = read_references(
                type(self).__name__, self._semflow, self.pictures, self.size,
                lambda pixels, z0: self._token.condition_of(z0)['style'])
            of_model[key] = found._replace(styles=torch.cat(found.styles))
        return of_model[key]

    @property
    def failed(self) -> Dict[str, str]:
        """Dict[str, str]: The pictures that could not be read, with the reason."""
        return self._references().failed

    @property
    def settings(self) -> dict:
        """dict: See :attr:`Style.settings`."""
        return dict(type=type(self).__name__, source=self._references().source)

    def wrap(self,
             network: Network,
             label_maps: Sequence[Tensor] = (),
             choices: Sequence[Any] = ()) -> Network:
        """See :meth:`Style.wrap`; the condition is all that changes."""
        return network

    def condition(self, numbers: Sequence[int]) -> Condition:
        """See :meth:`Style.condition`."""
        styles = self._references().styles.to(self._semflow.device)
        return dict(style=styles[[n % len(styles) for n in numbers]])

    def record(self, number: int, choice: Any = None) -> dict:
        """See :meth:`Style.record`."""
        names = self._references().names
        return dict(style_token=names[number % len(names)])


class Styles(Style):
    """Several styles at once.

    Args:
        styles (Sequence[Style]): The styles, the innermost first.
    """

    def __init__(self, styles: Sequence[Style]) -> None:
        self.styles = tuple(styles)

    def check_model(self, semflow: SemFlowModel) -> None:
        """See :meth:`Style.check_model`."""
        for style in self.styles:
            style.check_model(semflow)

    @property
    def settings(self) -> dict:
        """dict: See :attr:`Style.settings`."""
        return dict(styles=[style.settings for style in self.styles])

    def choose(self, label_map: Tensor, number: int, seed: int) -> Any:
        """See :meth:`Style.choose`; a list of what each chooses."""
        return [style.choose(label_map, number, seed) for style in self.styles]

    def wrap(self,
             network: Network,
             label_maps: Sequence[Tensor] = (),
             choices: Sequence[Any] = ()) -> Network:
        """See :meth:`Style.wrap`."""
        for place, style in enumerate(self.styles):
            network = style.wrap(
                network, label_maps, [choice[place] for choice in choices])
        return network

    def condition(self, numbers: Sequence[int]) -> Condition:
        """See :meth:`Style.condition`."""
        found: Dict[str, Tensor] = {}
        for style in self.styles:
            found.update(style.condition(numbers) or {})
        return found

    def record(self, number: int, choice: Any = None) -> dict:
        """See :meth:`Style.record`."""
        found: dict = {}
        for place, style in enumerate(self.styles):
            found.update(style.record(number, choice and choice[place]))
        return found


def read_references(user: str, semflow: SemFlowModel, pictures: Path,
                    size: Optional[Tuple[int, int]],
                    measure: Callable[[Tensor, Tensor], Any]) -> References:
    """Read reference pictures, and log those that cannot be read.

    Args:
        user (str): What needs them.
        semflow (SemFlowModel): See :func:`encoded_pictures`.
        pictures (Path): See there.
        size (Tuple[int, int], optional): See there.
        measure (Callable): Tells what a picture gives, of its pixels, (1, 3, H, W), and
            its latents, (1, C, h, w).

    Returns:
        References: Of all that can be read.

    Raises:
        FileNotFoundError: See :func:`encoded_pictures`.
        ValueError: See there.
    """
    source = hashlib.sha256(repr(size).encode())
    names: List[str] = []
    styles: List[Any] = []
    failed: Dict[str, str] = {}
    for file, pixels, z0 in encoded_pictures(semflow, pictures, size, failed):
        source.update(file.read_bytes())
        names.append(
            file.name if file == pictures else file.relative_to(pictures).as_posix())
        styles.append(measure(pixels, z0))
    # Of mmengine, which what is exported does without.
    from mmengine.logging import print_log
    for reason in failed.values():
        print_log(f'{user} leaves out {reason}', 'current', logging.WARNING)
    return References(names, styles, source.hexdigest()[:16], failed)


def encoded_pictures(
        semflow: SemFlowModel, path: Union[str, Path], size: Optional[Tuple[int, int]],
        failed: Dict[str, str]) -> Iterator[Tuple[Path, Tensor, Tensor]]:
    """Encode reference pictures one by one.

    Args:
        semflow (SemFlowModel): Its autoencoder encodes them.
        path (str | Path): A file, or a folder with its subfolders.
        size (Tuple[int, int], optional): Height and width in pixels to which they are
            resized first; None for their own.
        failed (Dict[str, str]): Gets those that cannot be read, with the reason.

    Yields:
        Tuple[Path, Tensor, Tensor]: The file, its pixels in [-1, 1], (1, 3, H, W), and
        its latents, (1, C, h, w).

    Raises:
        FileNotFoundError: If there is nothing at the path.
        ValueError: If none can be read.
    """
    from mmengine.utils import track_iter_progress
    any_read = False
    for file in track_iter_progress(list_pictures(path)):
        try:
            picture = torch.from_numpy(read_rgb(file))
        except (ValueError, OSError) as error:
            failed[str(file)] = str(error)
            continue
        levels = picture.permute(2, 0, 1)[None].to(semflow.device).float()
        if size is not None:
            levels = nn.functional.interpolate(
                levels, tuple(size), mode='bilinear', antialias=True)
        any_read = True
        pixels = semflow.codec.normalize(levels)
        yield file, pixels, semflow.encode(pixels)
    if not any_read:
        raise ValueError(f'style {path} holds no picture that can be read: '
                         f'{next(iter(failed.values()))}')


def check_size(size: Optional[Tuple[int, int]]) -> None:
    """Raise a ValueError unless a size is None or of a height and a width."""
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise ValueError(f'size must be (height, width), both >= 1, but got {size}')


def check_strength(strength: float) -> None:
    """Raise a ValueError unless a strength is in [0, 1]."""
    if not 0 <= strength <= 1:
        raise ValueError(f'strength must be in [0, 1], but got {strength}')
