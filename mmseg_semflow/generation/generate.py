"""From a checkpoint and the masks it was trained on to a labelled set."""

import hashlib
import json
from pathlib import Path
from typing import Any, List, Optional, Sequence, Tuple, Union

import numpy as np
from mmengine.config import Config

from mmseg_semflow.apis import SemFlowInferencer
from mmseg_semflow.apis.loading import innermost
from mmseg_semflow.datasets.label_maps import LabelMaps
from mmseg_semflow.datasets.mask_choice import (
    EveryMaskChoice,
    RareClassChoice,
    times_by_hardness,
)
from mmseg_semflow.files import write_bytes
from mmseg_semflow.synthesis import LatentStatistics

from .filters import CycleFilter, LossFilter
from .labelled_set import LabelledSet, RealPairs, claim_folder
from .views import MaskViews

CHOICES = ('rare', 'each', 'hard')
# How many real pictures calibrate the agreement, about.
CALIBRATION = 40


def generate_set(config: Union[str, Path, Config],
                 checkpoint: str,
                 out: Union[str, Path],
                 num_images: int,
                 seed: int = 0,
                 choose: str = 'rare',
                 temperature: float = 0.01,
                 classes: Optional[Sequence[str]] = None,
                 scale: Optional[Tuple[float, float]] = None,
                 flip: float = 0.5,
                 paste: int = 0,
                 size: Optional[Sequence[int]] = None,
                 style: Union[str, Path, None] = None,
                 style_strength: float = 1.,
                 judge: Optional[Tuple[str, str]] = None,
                 min_agreement: Optional[float] = None,
                 device: Optional[str] = None,
                 rank: int = 0,
                 world_size: int = 1,
                 **synthesis: Any) -> Optional[List[dict]]:
    """Make a labelled set, see :class:`LabelledSet`.

    Args:
        config (str | Path | Config): Config of the segmentor; its training set
            gives the masks.
        checkpoint (str): Its checkpoint.
        out (str | Path): Folder to write to.
        num_images (int): Number of pictures, rejected ones included.
        seed (int): Seed of all that is drawn. Defaults to 0.
        choose (str): ``'rare'`` (:class:`RareClassChoice`), ``'each'``
            (:class:`EveryMaskChoice`), or ``'hard'``, the same by
            :func:`times_by_hardness`. Defaults to ``'rare'``.
        temperature (float): See :class:`RareClassChoice`. Defaults to 0.01.
        classes (Sequence[str], optional): Names of the classes that are chosen.
            Defaults to None, all.
        scale (Tuple[float, float], optional): See :class:`MaskViews`. Defaults to
            None, the ``ratio_range`` of the training's RandomResize, or (1, 1).
        flip (float): See :class:`MaskViews`. Defaults to 0.5.
        paste (int): See :class:`MaskViews`. Defaults to 0.
        size (Sequence[int], optional): Height and width of the pictures. Defaults
            to None, ``synthesis.size`` of the config.
        style (str | Path, optional): A picture or folder of pictures, see
            :class:`LatentStatistics`. Defaults to None.
        style_strength (float): How much of it, in [0, 1]. Defaults to 1.
        judge (Tuple[str, str], optional): Config and checkpoint of a
            :class:`LossFilter`. Defaults to None.
        min_agreement (float, optional): See :class:`CycleFilter`. Defaults to
            None.
        device (str, optional): Defaults to None, a GPU if there is one.
        rank (int): Which of ``world_size`` processes this is. Defaults to 0.
        world_size (int): Number of processes. Defaults to 1.
        **synthesis (Any): Arguments of the synthesizer, such as ``num_steps``, or
            ``base_size`` of :class:`MultiResolutionFusion`.

    Returns:
        Optional[List[dict]]: The records of all pictures; None where other
        processes still draw.

    Raises:
        ValueError: If an argument breaks its rule, or the folder is of others.
        FileNotFoundError: If a file is not there.
    """
    if choose not in CHOICES:
        raise ValueError(f'choose must be one of {CHOICES}, but got {choose!r}')
    if choose == 'hard' and judge is None:
        raise ValueError("choose='hard' needs a judge, which tells what is hard")
    inferencer = SemFlowInferencer(config, checkpoint, device)
    cfg, codec = inferencer.model.cfg, inferencer.semflow.codec
    size = size or cfg.get('synthesis', {}).get('size')
    if size is None:
        raise ValueError(f'{cfg.filename} has no synthesis.size: say how large the '
                         'pictures shall be (--size)')
    synthesis['seed'] = seed
    if synthesis.get('base_size') is None:
        synthesis['size'] = size
    synthesizer = inferencer.synthesizer(**synthesis)
    if style is not None:
        statistics, unread = LatentStatistics.of_pictures(
            inferencer.semflow, style, style_strength,
            synthesis.get('base_size') or size)
        for reason in unread.values():
            print(f'left out of the style: {reason}', flush=True)
        synthesizer = inferencer.synthesizer(**synthesis, style=statistics)
    source = innermost(cfg.train_dataloader.dataset)
    label_maps = LabelMaps(source, codec.num_classes, codec.ignore_index)
    labels = None if classes is None else [
        _index_of(name, inferencer.classes) for name in classes
    ]
    settings = dict(
        weights=_digest_of(checkpoint),
        masks=_names_digest(label_maps),
        choose=choose,
        temperature=temperature,
        classes=labels,
        scale=scale or scale_of_training(source),
        flip=flip,
        paste=paste,
        size=list(size),
        judge=judge and _digest_of(judge[1]),
        min_agreement=min_agreement,
        synthesis=synthesizer.settings)
    # All that can be wrong is looked at before anything is written.
    rare = RareClassChoice(label_maps.counts, seed, temperature, classes=labels)
    views = MaskViews(
        label_maps, rare, size, settings['scale'], flip, paste, rare)
    if choose == 'each':
        views.choice = EveryMaskChoice(label_maps.counts, seed)
    views.choice.check(num_images)
    cycle = CycleFilter(inferencer.semflow, min_agreement)
    losses = None if judge is None else LossFilter(
        *judge, inferencer.classes, str(inferencer.semflow.device))

    claim_folder(out, settings)
    hardness = _fit(Path(out, 'fitted.json'), label_maps, size, cycle, losses)
    if choose == 'hard':
        views.choice = EveryMaskChoice(
            label_maps.counts, seed, times_by_hardness(hardness))
        views.choice.check(num_images)
    labelled = LabelledSet(out, views, synthesizer, inferencer.classes,
                           inferencer.palette, settings, cycle, losses)
    labelled.generate(num_images, rank, world_size)
    return labelled.finish(num_images)


def scale_of_training(dataset: dict) -> Tuple[float, float]:
    """Tell by how much a training set enlarges its pictures at random.

    Args:
        dataset (dict): Its config.

    Returns:
        Tuple[float, float]: The ``ratio_range`` of its RandomResize; (1, 1) where
        there is none, and factors below 1, which leave borders, become 1.
    """
    for transform in dataset.get('pipeline', ()):
        if transform['type'] == 'RandomResize' and 'ratio_range' in transform:
            low, high = transform['ratio_range']
            return max(low, 1.), max(high, 1.)
    return 1., 1.


def _fit(path: Path, label_maps: LabelMaps, size: Sequence[int],
         cycle: CycleFilter, losses: Optional[LossFilter]) -> List[float]:
    """Fit the filters on real pictures, or read what an earlier call found."""
    if path.is_file():
        found = json.loads(path.read_text())
        cycle.min_agreement = found['min_agreement']
        if losses is not None:
            losses.class_losses = np.array(found['class_losses'])
        return found['hardness']
    every = range(len(label_maps))
    if cycle.min_agreement is None:
        print('calibrating the agreement on real pictures', flush=True)
        step = max(len(label_maps) // CALIBRATION, 1)
        threshold = cycle.fit(RealPairs(label_maps, size, every[::step]))
        print(f'pictures whose agreement is below {threshold:.3f} are rejected',
              flush=True)
    hardness: List[float] = []
    if losses is not None:
        print('measuring the losses of real pictures', flush=True)
        losses.fit(RealPairs(label_maps, size, every))
        print(flush=True)
        hardness = losses.hardness(label_maps.counts).tolist()
    write_bytes(
        path,
        json.dumps(
            dict(
                min_agreement=cycle.min_agreement,
                class_losses=None if losses is None else
                losses.class_losses.tolist(),
                hardness=hardness)).encode())
    return hardness


def _index_of(name: str, classes: Sequence[str]) -> int:
    if name not in classes:
        raise ValueError(f'classes must be of {", ".join(classes)}, but got {name!r}')
    return list(classes).index(name)


def _digest_of(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while part := file.read(2**24):
            digest.update(part)
    return digest.hexdigest()[:16]


def _names_digest(label_maps: LabelMaps) -> str:
    """Tell the label maps apart by their number, names and sizes."""
    names = [(label_maps.path(index).name, label_maps.path(index).stat().st_size)
             for index in range(len(label_maps))]
    digest = hashlib.sha256(repr(names).encode()).hexdigest()[:16]
    return f'{len(label_maps)} maps {digest}'
