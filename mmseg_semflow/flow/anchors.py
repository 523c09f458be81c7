"""Label maps as pseudo masks of anchor colours (SemFlow, Sec. 3.2)."""

from typing import Optional, Sequence

import torch
from torch import Tensor, nn

from mmseg_semflow.arguments import checked

from .perturbation import perturb


def check_labels(label_map: Tensor,
                 num_classes: int,
                 ignore_index: int,
                 name: str = 'the label map') -> None:
    """Raise a ValueError if a label is neither a class nor void.

    Args:
        label_map (Tensor): Labels, integers, of any shape.
        num_classes (int): Number of classes.
        ignore_index (int): Label of void pixels.
        name (str): What they are of, for the error. Defaults to
            ``'the label map'``.
    """
    wrong = (label_map < 0) | (label_map >= num_classes)
    wrong &= label_map != ignore_index
    if wrong.any():
        raise ValueError(
            f'{name} has the labels {label_map[wrong].unique().tolist()}: labels '
            f'must be below num_classes={num_classes} or {ignore_index} (void)')


@checked
class PseudoMaskCodec(nn.Module):
    r"""Translate between label maps, pseudo masks and logits.

    The anchor colour of class c consists of the base-k digits of c, times
    the spacing s (SemFlow, Wang et al., NeurIPS 2024, Eq. 7):

    .. math::
        M = s \, (m_0, m_1, m_2), \quad
        c = m_0 k^2 + m_1 k + m_2, \quad 0 \le m_i < k

    The prediction of a pixel x is its nearest anchor in L2. Since
    :math:`|x - a_c|^2 = |x|^2 - (2 x \cdot a_c - |a_c|^2)`, that is the
    argmax of :math:`2 x \cdot a_c - |a_c|^2`, an affine function of x: the
    3-channel pseudo mask may be resized or averaged in place of
    ``num_classes`` channels of logits, and the argmax is the same.

    Pseudo masks are RGB, as 8-bit levels in [0, 255] before the data
    preprocessor and scaled to [-1, 1] after it; :meth:`encode` gives the
    first, :meth:`logits` and :meth:`decode` take the second.

    Args:
        num_classes (int): Number of classes.
        divisions (int): Number of levels per channel, k. Defaults to 6.
        spacing (int): Distance s between levels, in 8-bit levels. Defaults
            to 50.
        amplitude (float): Half-width beta of the finite perturbation (Eq.
            14) this pseudo mask is trained with, in 8-bit levels. It belongs
            to the codec since sampling has to use the same. Defaults to 6.
        grain (int): Side in pixels of the squares over which the perturbation
            changes, see :func:`perturb`. Defaults to 1, the paper.
        codes (Sequence[int], optional): The distinct numbers in [0, k^3)
            whose digits the classes take, in place of 0, 1, 2, ...: where k^3
            exceeds ``num_classes``, a choice may part the anchors further
            than Eq. 7 does. Defaults to None, Eq. 7.
        void_color (Sequence[int]): RGB colour of void pixels, in 8-bit
            levels. Decoding never returns void. Defaults to
            (255, 255, 255), as in the authors' released code.
        ignore_index (int): Label of void pixels. Defaults to 255.

    Raises:
        ValueError: If an argument breaks a rule of Eq. 7 or 14: at least
            ``num_classes`` anchors in :math:`k^3`, s (k - 1) < 255,
            0 <= beta < s / 2, and a void colour at least s / 2 away from
            the anchors in use.
    """

    def __init__(self,
                 num_classes: int,
                 divisions: int = 6,
                 spacing: int = 50,
                 amplitude: float = 6.,
                 grain: int = 1,
                 codes: Optional[Sequence[int]] = None,
                 void_color: Sequence[int] = (255, 255, 255),
                 ignore_index: int = 255) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f'num_classes must be >= 1, but got {num_classes}')
        if divisions**3 < num_classes:
            raise ValueError(
                f'divisions={divisions} gives divisions^3={divisions**3} '
                f'anchors, fewer than num_classes={num_classes}')
        if spacing <= 0 or spacing * (divisions - 1) >= 255:
            raise ValueError(
                'spacing must be positive and spacing * (divisions - 1) < 255 '
                f'(Eq. 7), but got spacing={spacing}, divisions={divisions}: '
                f'{spacing * (divisions - 1)}')
        if not 0 <= amplitude < spacing / 2:
            raise ValueError(
                f'amplitude must be in [0, spacing / 2) = [0, {spacing / 2}) '
                f'(Eq. 14), but got {amplitude}')
        if not isinstance(grain, int) or grain < 1:
            raise ValueError(f'grain must be an integer >= 1, but got {grain!r}')
        if len(void_color) != 3 or not all(0 <= v <= 255 for v in void_color):
            raise ValueError('void_color must be three levels in [0, 255], '
                             f'but got {void_color}')
        if not num_classes <= ignore_index <= 255:
            raise ValueError(
                'ignore_index must be an 8-bit label that is no class, in '
                f'[num_classes, 255] = [{num_classes}, 255], but got '
                f'{ignore_index}')
        numbers = tuple(range(num_classes) if codes is None else codes)
        if len(numbers) != num_classes or len(set(numbers)) != num_classes or \
                not all(0 <= n < divisions**3 for n in numbers):
            raise ValueError(
                f'codes must be num_classes={num_classes} distinct numbers in '
                f'[0, divisions^3) = [0, {divisions**3}), but got {numbers}')
        m = torch.tensor(numbers)
        digits = torch.stack([
            m // divisions**2, m // divisions % divisions, m % divisions
        ], 1)
        levels = spacing * digits.float()
        void_distance, nearest = (
            levels - torch.tensor(void_color)).norm(dim=1).min(0)
        if void_distance < spacing / 2:
            raise ValueError(
                f'void_color={tuple(void_color)} is {void_distance:.1f} levels '
                f'from the anchor {levels[nearest].int().tolist()} of class '
                f'{int(nearest)}, nearer than spacing / 2 = {spacing / 2}')
        self.num_classes = num_classes
        self.divisions = divisions
        self.spacing = spacing
        self.amplitude = amplitude
        self.grain = grain
        self.codes = numbers
        self.void_color = tuple(void_color)
        self.ignore_index = ignore_index
        # Buffers of the state dict, so that a checkpoint knows its codec, and what
        # they say in words.
        self.trained_with = dict(
            levels='codec with other anchors (num_classes, divisions, spacing)',
            void_level='codec with other void_color',
            noise_level='codec with other amplitude')
        self.register_buffer('levels', levels)
        self.register_buffer('void_level', torch.tensor(self.void_color).float())
        self.register_buffer('noise_level', torch.tensor(float(amplitude)))
        if grain > 1:
            self.trained_with['noise_grain'] = 'codec with other grain'
            self.register_buffer('noise_grain', torch.tensor(grain))

    @property
    def anchors(self) -> Tensor:
        """Anchors in [-1, 1], shape (num_classes, 3)."""
        return self.normalize(self.levels)

    @property
    def spec(self) -> dict:
        """dict: What two codecs must agree on, as plain numbers."""
        return dict(
            num_classes=self.num_classes,
            divisions=self.divisions,
            spacing=self.spacing,
            amplitude=self.amplitude,
            codes=self.codes,
            void_color=self.void_color,
            ignore_index=self.ignore_index,
            **(dict(grain=self.grain) if self.grain > 1 else {}))

    @staticmethod
    def normalize(levels: Tensor) -> Tensor:
        """Map 8-bit levels [0, 255] to the networks' range [-1, 1]."""
        return levels / 127.5 - 1

    def encode(self, label_map: Tensor, check: bool = True) -> Tensor:
        """Colour a label map (Eq. 7).

        Args:
            label_map (Tensor): Labels in [0, num_classes) or
                ``ignore_index``, int64, shape (B, H, W).
            check (bool): Whether to look for other labels, which waits for a
                GPU. Defaults to True.

        Returns:
            Tensor: Pseudo mask, float32 levels in [0, 255], shape
            (B, 3, H, W).

        Raises:
            ValueError: If there is any other label.
        """
        table = torch.cat([self.levels, self.void_level[None]])
        return table[self.index(label_map, check)].movedim(-1, -3)

    def perturb(self,
                levels: Tensor,
                generator: Optional[torch.Generator] = None,
                amplitude: Optional[float] = None) -> Tensor:
        """Add the finite perturbation that the codec is trained with (Eq. 14).

        Args:
            levels (Tensor): Pseudo masks of :meth:`encode`, shape
                (B, 3, H, W).
            generator (torch.Generator, optional): See :func:`perturb`.
                Defaults to None.
            amplitude (float, optional): Another half-width. Defaults to None,
                that of the codec.

        Returns:
            Tensor: Perturbed levels, of the same shape.
        """
        amplitude = self.amplitude if amplitude is None else amplitude
        return perturb(levels, amplitude, generator, self.grain)

    def index(self, label_map: Tensor, check: bool = True) -> Tensor:
        """Number the labels so that void comes after the classes.

        Args:
            label_map (Tensor): Labels in [0, num_classes) or
                ``ignore_index``, int64, of any shape.
            check (bool): See :meth:`encode`. Defaults to True.

        Returns:
            Tensor: int64 in [0, num_classes], of the same shape.

        Raises:
            ValueError: If there is any other label.
        """
        if check:
            check_labels(label_map, self.num_classes, self.ignore_index)
        void = label_map == self.ignore_index
        return label_map.long().masked_fill(void, self.num_classes)

    def logits(self, pseudo_mask: Tensor) -> Tensor:
        r"""Score every class: :math:`2 x \cdot a_c - |a_c|^2`.

        Args:
            pseudo_mask (Tensor): Pseudo mask in [-1, 1], shape (B, 3, H, W).

        Returns:
            Tensor: Logits, shape (B, num_classes, H, W): minus the squared
            distances to the anchors, plus a constant of the pixel. At least
            float32, under autocast too.
        """
        dtype = torch.promote_types(pseudo_mask.dtype, torch.float32)
        with torch.autocast(pseudo_mask.device.type, enabled=False):
            anchors = self.anchors.to(pseudo_mask.device, dtype)
            pixels = pseudo_mask.to(dtype).movedim(1, -1)
            logits = pixels @ (2 * anchors.T) - anchors.square().sum(1)
        return logits.movedim(-1, 1)

    def decode(self, pseudo_mask: Tensor) -> Tensor:
        """Find the nearest anchor of every pixel.

        Works on a few rows at a time: its memory does not grow with
        ``num_classes`` times the size of the image.

        Args:
            pseudo_mask (Tensor): Pseudo mask in [-1, 1], shape (B, 3, H, W).

        Returns:
            Tensor: Label map, int64 in [0, num_classes), shape (B, H, W).
        """
        batch_size, _, _, width = pseudo_mask.shape
        rows = max(1, 2**21 // (batch_size * self.num_classes * width))
        return torch.cat([
            self.logits(part).argmax(1) for part in pseudo_mask.split(rows, 2)
        ], 1)

    def recover(self, pseudo_mask: Tensor) -> Tensor:
        """Find the labels that a pseudo mask was made of, void included.

        Args:
            pseudo_mask (Tensor): Perturbed pseudo mask in about [-1, 1], shape
                (B, 3, H, W).

        Returns:
            Tensor: Label map in [0, num_classes) or ``ignore_index``, int64,
            shape (B, H, W).
        """
        labels = self.decode(pseudo_mask)
        nearest = self.anchors[labels].movedim(-1, 1)
        void = self.normalize(self.void_level).view(3, 1, 1)
        to_class, to_void = (
            (pseudo_mask - colour).square().sum(1) for colour in (nearest, void))
        return labels.masked_fill(to_void < to_class, self.ignore_index)

    def extra_repr(self) -> str:
        return ', '.join(f'{k}={v}' for k, v in self.spec.items())
