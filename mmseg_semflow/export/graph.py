"""The segmentor as one graph, for ONNX and ``torch.export``."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor, nn

from mmseg_semflow.extras import MissingExtraError
from mmseg_semflow.models import RectifiedFlow, SemFlowModel
from mmseg_semflow.models.prediction import check_prediction
from mmseg_semflow.networks import VelocityUNet

from .pipeline import SemFlowPipeline
from .segmentor import NOTE, PROGRAM, check_suffix, load_onnx
from .settings import VERSION

# Above, the weights of an ONNX file stand beside it: protobuf ends at 2 GiB.
MAX_BYTES = 2**30
# By how much an ONNX file may differ from torch, relative to the largest value.
TOLERANCE = 1e-2


class SegmentorGraph(nn.Module):
    """Segmentation by N Euler steps, without a choice.

    Args:
        semflow (SemFlowModel): The model.
        num_steps (int): Number of steps N.
    """

    def __init__(self, semflow: SemFlowModel, num_steps: int) -> None:
        super().__init__()
        self.semflow = semflow
        self.times = semflow.process.times(num_steps, 0., 1.).tolist()

    def forward(self, image: Tensor) -> Tuple[Tensor, Tensor]:
        """Segment an image.

        Args:
            image (Tensor): RGB in [-1, 1], shape (1, 3, H, W).

        Returns:
            Tuple[Tensor, Tensor]: Labels, int64, shape (1, H, W), and what they are
            the nearest of: the pseudo mask (1, 3, H, W), or with a refiner logits
            (1, num_classes, H, W).
        """
        semflow = self.semflow
        z0 = z = semflow.autoencoder.encode(image).mean
        for start, end in zip(self.times[:-1], self.times[1:], strict=True):
            t = z.new_full((1, ), start)
            z = z + (end - start) * semflow.velocity(z, t)
        pixels = semflow.autoencoder.decode(z)
        if semflow.refiner is not None:
            logits = semflow.refiner(semflow.codec, pixels, z, z0)
            return logits.argmax(1), logits
        return semflow.codec.logits(pixels).argmax(1), pixels


def export_segmentor(pipe: SemFlowPipeline,
                     out: Union[str, Path],
                     num_steps: Optional[int] = None,
                     size: Optional[Sequence[int]] = None,
                     opset: int = 18,
                     overwrite: bool = False) -> dict:
    """Write the segmentor of a pipeline as one file.

    Args:
        pipe (SemFlowPipeline): On the CPU, in float32.
        out (str | Path): ``.onnx``, or ``.pt2`` for ``torch.export``. The weights of
            a large ONNX file stand beside it, in a file with ``.data`` after its
            name.
        num_steps (int, optional): Number of Euler steps. Defaults to None, that of
            the pipeline.
        size (Sequence[int], optional): Height and width in pixels of the pictures
            that the network gets. Defaults to None: any that are multiples of what
            :func:`divisor_of` says; with windows their size.
        opset (int): Version of ONNX' operators. Defaults to 18.
        overwrite (bool): Whether to replace the file. Defaults to False.

    Returns:
        dict: What the file says of itself, see :class:`ExportedSegmentor`.

    Raises:
        FileExistsError: If there is such a file.
        ImportError: If a library of the extra ``export`` is missing.
        ValueError: If the pipeline segments in a way that no graph has, a size
            does not fit the network, or what torch writes as ONNX computes something
            else. It is named.
    """
    out = Path(out)
    suffix = check_suffix(out)
    if out.exists() and not overwrite:
        raise FileExistsError(f'{out} is there already: choose another name or '
                              'overwrite it (--overwrite)')
    how = _how(pipe, num_steps)
    if size is None and how['mode'] == 'slide':
        size = how['crop_size']
    divisor = divisor_of(pipe.semflow, size is None)
    if size is not None and any(side < 1 or side % divisor for side in size):
        raise ValueError(f'size must be (height, width), multiples of {divisor}, but '
                         f'got {tuple(size)}')
    note = dict(
        version=VERSION,
        classes=pipe.settings['classes'],
        palette=pipe.settings['palette'],
        codec=pipe.settings['model']['codec'],
        segmentation=dict(how, preparation=pipe.preparation.settings),
        factor=pipe.semflow.autoencoder.factor,
        divisor=divisor,
        size=size and list(size),
        scored=pipe.semflow.refiner is not None)
    program = _program(pipe.semflow, how['num_steps'], size, divisor)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
            dir=out.parent, prefix=f'.{out.name}.') as scratch:
        path = Path(scratch) / out.name
        if suffix == PROGRAM:
            torch.export.save(program, path, extra_files={NOTE: json.dumps(note)})
        else:
            _save_onnx(program, path, note, opset)
            try:
                _check_onnx(program, path)
            except ValueError as error:
                network = type(pipe.semflow.network).__name__
                raise ValueError(
                    f'{out} is not written: torch {torch.__version__} makes no right '
                    f'ONNX file of this {network} ({error}). '
                    f'Take the suffix {PROGRAM}') from error
        # The file itself last: where it is, all is there.
        for file in sorted(Path(scratch).iterdir(), key=lambda file: file == path):
            os.replace(file, out.parent / file.name)
    return note


def divisor_of(semflow: SemFlowModel, dynamic: bool) -> int:
    """Tell of what the sides of the network's pictures must be multiples.

    Args:
        semflow (SemFlowModel): The model.
        dynamic (bool): Whether one graph shall serve several sizes. A UNet then
            halves its latents without a rest.

    Raises:
        ValueError: If the network has one size in a graph.
    """
    factor = semflow.autoencoder.factor
    if not dynamic:
        return factor
    if not isinstance(semflow.network, VelocityUNet):
        raise ValueError(f'a graph of {type(semflow.network).__name__} is for one '
                         'size: give it (--size HEIGHT WIDTH)')
    return factor * 2**semflow.network.unet.num_upsamplers


def _how(pipe: SemFlowPipeline, num_steps: Optional[int]) -> dict:
    """Tell how the pipeline segments, or why no graph does so."""
    how = pipe.prediction
    if num_steps is not None:
        how['num_steps'] = num_steps
        check_prediction(pipe.semflow, how)
    process = type(pipe.semflow.process)
    if process is not RectifiedFlow:
        raise ValueError('only the segmentation of a RectifiedFlow can be exported, '
                         f'but the process is {process.__name__}')
    if how['solver'] != 'euler':
        raise ValueError("only the solver 'euler' can be exported, but segmentation "
                         f'has {how["solver"]!r}')
    if how['dtype'] is not None or pipe.dtype != torch.float32:
        raise ValueError('only float32 can be exported, but segmentation has '
                         f'dtype={how["dtype"]!r} and the weights are {pipe.dtype}')
    if pipe.device.type != 'cpu':
        raise ValueError("a pipeline is exported on the CPU, but this one is on "
                         f'{pipe.device}: pipe.to("cpu")')
    return how


@torch.no_grad()
def _program(semflow: SemFlowModel, num_steps: int, size: Optional[Sequence[int]],
             divisor: int) -> Any:
    graph = SegmentorGraph(semflow, num_steps).eval()
    shapes = None
    if size is None:
        # Not 1, which would be taken for a constant.
        height, width = 2 * divisor, 3 * divisor
        shapes = dict(image={
            2: divisor * torch.export.Dim('height', min=1, max=4096),
            3: divisor * torch.export.Dim('width', min=1, max=4096)
        })
    else:
        height, width = size
    image = torch.zeros(1, 3, height, width)
    return torch.export.export(graph, (image, ), dynamic_shapes=shapes, strict=False)


def _save_onnx(program: Any, path: Path, note: dict, opset: int) -> None:
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(str(path), 'onnxscript', 'export', error) from error
    found = torch.onnx.export(
        program, (), dynamo=True, opset_version=opset, verbose=False,
        input_names=['image'], output_names=['label_map', 'map'])
    found.model.metadata_props[NOTE] = json.dumps(note)
    weights = sum(v.nbytes for v in program.state_dict.values())
    found.save(path, external_data=weights > MAX_BYTES)


@torch.no_grad()
def _check_onnx(program: Any, path: Path) -> None:
    """Raise a ValueError unless a file computes what torch does."""
    image, = program.example_inputs[0]
    image = 2 * torch.rand(image.shape, generator=torch.Generator().manual_seed(0)) - 1
    expected = program.module()(image)[1]
    run, _ = load_onnx(path)
    error = float((run(image) - expected).abs().max() / expected.abs().max())
    if not error <= TOLERANCE:
        raise ValueError(f'its maps differ from torch by {error:.2g} of the largest '
                         f'value, where {TOLERANCE} is allowed')
