"""From a checkpoint and the masks it was trained on to a labelled set."""

import json
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np
from mmengine.config import Config

from mmseg_semflow.apis import SemFlowInferencer
from mmseg_semflow.apis.loading import innermost
from mmseg_semflow.arguments import both_sides
from mmseg_semflow.datasets.cached_latents import dataset_key
from mmseg_semflow.datasets.label_maps import LabelMaps
from mmseg_semflow.datasets.mask_choice import (
    EveryMaskChoice,
    RareClassChoice,
    labelled_maps,
    labels_of,
    times_by_hardness,
)
from mmseg_semflow.datasets.seeded import MASK_CHOICE, PASTE_CHOICE
from mmseg_semflow.files import digest_of, read_json, write_bytes
from mmseg_semflow.synthesis.style import check_size

from .filters import CycleFilter, LossFilter
from .labelled_set import LabelledSet, RealPairs, check_folder, settings_digest
from .views import MaskViews

CHOICES = ('rare', 'each', 'hard')
# How many real pictures calibrate the agreement, about.
CALIBRATION = 40


def generate_set(config: Union[str, Path, Config],
                 checkpoint: str,
                 out: Union[str, Path],
                 num_images: int,
                 *,
                 seed: int = 0,
                 choose: str = 'rare',
                 temperature: float = 0.01,
                 classes: Optional[Sequence[str]] = None,
                 scale: Optional[Tuple[float, float]] = None,
                 flip: Optional[float] = None,
                 paste: int = 0,
                 size: Optional[Sequence[int]] = None,
                 style: Union[str, Path, None] = None,
                 style_strength: Optional[float] = None,
                 style_by_class: bool = False,
                 style_texts: Optional[Sequence[str]] = None,
                 style_token: Union[str, Path, None] = None,
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
            None, always :func:`smallest_scale` for ``size``, or ``base_size`` of a
            fusion: a segmentor enlarges them itself.
        flip (float, optional): See :class:`MaskViews`. Defaults to None, that of
            the training's RandomFlip, whose ``swap_seg_labels`` are swapped.
        paste (int): See :class:`MaskViews`. Defaults to 0.
        size (Sequence[int], optional): Height and width of the pictures. Defaults
            to None, ``synthesis.size`` of the config.
        style (str | Path, optional): A picture or folder of pictures, see
            :class:`LatentStatistics`. Defaults to None.
        style_strength (float, optional): How much of it, in [0, 1]. Defaults to
            None, 1; given, it needs ``style``.
        style_by_class (bool): Whether every class looks like that of one of the
            pictures, see :class:`ClassStatistics`. Defaults to False.
        style_texts (Sequence[str], optional): See :class:`TextStyle`. Defaults to
            None.
        style_token (str | Path, optional): A picture or folder of pictures, see
            :class:`TokenStyle`. Defaults to None.
        judge (Tuple[str, str], optional): Config and checkpoint of a
            :class:`LossFilter`. Defaults to None.
        min_agreement (float, optional): Pictures of which the model's own
            segmentation finds less are rejected. Defaults to None: calibrated, see
            :meth:`CycleFilter.threshold`.
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
    synthesizer, unread = inferencer.styled_synthesizer(
        style, style_strength, style_texts, style_token, style_by_class, **synthesis)
    _name_unread(unread, rank)
    if codec.ignore_index != 255:
        raise ValueError('the labels of a set have 255 for void, but ignore_index of '
                         f'the codec is {codec.ignore_index}')
    if min_agreement is not None and not 0 <= min_agreement <= 1:
        raise ValueError(f'min_agreement must be in [0, 1], but got {min_agreement}')
    check_size(size)
    source = innermost(cfg.train_dataloader.dataset)
    label_maps = LabelMaps(source, codec.num_classes)
    labels = labels_of(classes, inferencer.classes)
    own_flip, swapped = flip_of_training(source)
    semflow = cfg.model.semflow
    # Of a fusion pass 1 draws as large as the training does.
    trained_size = synthesis.get('base_size') or size
    settings = dict(
        weights=digest_of(checkpoint),
        **inferencer.base,
        model=settings_digest([
            semflow.get(part) for part in ('codec', 'process', 'wrappers', 'refiner')
        ]),
        masks=dataset_key(label_maps.dataset),
        choose=choose,
        temperature=temperature,
        classes=labels,
        scale=scale or 2 * (
            smallest_scale(source, label_maps.first_readable().shape, trained_size), ),
        flip=own_flip if flip is None else flip,
        swapped=swapped,
        # Sets of before looked for the class that a flip had exchanged.
        **(dict(crops='after the flip') if swapped else {}),
        paste=paste,
        size=list(size),
        judge=judge and [
            settings_digest(Config.fromfile(judge[0]).to_dict()),
            digest_of(judge[1])
        ],
        synthesis=synthesizer.settings)
    fitted = Path(out, 'fitted.json')
    known = _read_fitted(fitted, settings)
    if known is not None:
        label_maps.counts = np.array(known['counts'])

    # All that can be wrong is looked at before anything is written.
    label_maps.check_held(labels, inferencer.classes)
    rare, paste_from = (
        RareClassChoice(
            label_maps.counts, seed, temperature, classes=labels, kind=kind)
        for kind in (MASK_CHOICE, PASTE_CHOICE))
    views = MaskViews(label_maps, rare, size, settings['scale'], settings['flip'],
                      swapped, paste, paste_from)
    if choose != 'rare':
        # How often each is drawn: in all the same, whichever is hard.
        times = None if choose == 'each' else times_by_hardness(
            range(len(labelled_maps(label_maps.counts))))
        views.choice = EveryMaskChoice(label_maps.counts, seed, times)
    views.choice.check(num_images)
    cycle = CycleFilter(synthesizer)
    losses = None if judge is None else LossFilter(
        *judge, inferencer.classes, str(inferencer.semflow.device))

    calibrate = min_agreement is None
    # Every process by itself: of those that wait none may wait for a refused one.
    check_folder(out, settings)
    while rank and not _suffices(known, calibrate):
        # The first process learns it for all.
        time.sleep(0.2)
        known = _read_fitted(fitted, settings)
    if not _suffices(known, calibrate):
        known = _fit(label_maps, size, cycle, losses, calibrate)
        write_bytes(
            Path(out, 'settings.json'), json.dumps(settings, indent=2).encode())
        known['set'] = settings_digest(settings)
        write_bytes(fitted, json.dumps(known).encode())
    if losses is not None:
        losses.class_losses = np.array(known['class_losses'])
    if choose == 'hard':
        views.choice = EveryMaskChoice(
            label_maps.counts, seed, times_by_hardness(known['hardness']))
    labelled = LabelledSet(out, views, synthesizer, inferencer.classes,
                           inferencer.palette, settings, source, cycle, losses)
    labelled.generate(num_images, rank, world_size)
    records = labelled.finish(
        num_images, known['threshold'] if calibrate else min_agreement)
    # Again where it is seen, below hours of progress.
    _name_unread(unread, rank)
    return records


def smallest_scale(dataset: dict, sides: Sequence[int], size: Sequence[int]) -> float:
    """Tell by how much a training set enlarges its pictures at least.

    Args:
        dataset (dict): Its config.
        sides (Sequence[int]): Height and width of its label maps.
        size (Sequence[int]): Height and width of the crops.

    Returns:
        float: The smallest factor of its RandomResize, or that of a Resize with
        ``keep_ratio``, relative to what just covers the crops; 1 where there is none,
        or where it is below 1, which leaves borders.
    """
    for transform in dataset.get('pipeline', ()):
        ratio = None
        if transform['type'] == 'RandomResize':
            ratio = min(transform.get('ratio_range') or (0, ))
        elif transform['type'] == 'Resize' and transform.get('keep_ratio'):
            ratio = 1. if transform.get('scale') else 0
        if ratio:
            scale = both_sides(transform['scale'])
            resized = min(max(scale) / max(sides), min(scale) / min(sides))
            covering = max(
                crop / side for crop, side in zip(size, sides, strict=True))
            return max(round(ratio * resized / covering, 2), 1.)
    return 1.


def flip_of_training(dataset: dict) -> Tuple[float, List[Tuple[int, int]]]:
    """Tell how often a training set mirrors its pictures.

    Args:
        dataset (dict): Its config.

    Returns:
        Tuple[float, List[Tuple[int, int]]]: The probability of its RandomFlip, 0
        where there is none, and the labels that a flip changes for each other.
    """
    for transform in dataset.get('pipeline', ()):
        if transform['type'] == 'RandomFlip' and \
                transform.get('direction', 'horizontal') == 'horizontal' and \
                isinstance(transform.get('prob'), (int, float)):
            pairs = transform.get('swap_seg_labels') or []
            return transform['prob'], [tuple(pair) for pair in pairs]
    return 0., []


def _name_unread(unread: Dict[str, str], rank: int) -> None:
    """Name the pictures of a style that cannot be read, once for all processes."""
    for reason in unread.values() if rank == 0 else ():
        print(f'left out of the style: {reason}', flush=True)


def _fit(label_maps: LabelMaps, size: Sequence[int], cycle: CycleFilter,
         losses: Optional[LossFilter], calibrate: bool) -> dict:
    """Learn what the filters need of real pictures."""
    every = labelled_maps(label_maps.counts).tolist()
    threshold, class_losses, hardness = None, None, []
    if calibrate:
        print('calibrating the agreement on real pictures', flush=True)
        step = max(len(every) // CALIBRATION, 1)
        threshold = cycle.threshold(RealPairs(label_maps, size, every[::step]))
        print(f'pictures whose agreement is below {threshold:.3f} will be rejected',
              flush=True)
    if losses is not None:
        print('measuring the losses of real pictures', flush=True)
        losses.fit(RealPairs(label_maps, size, every))
        print(flush=True)
        class_losses = losses.class_losses.tolist()
        hardness = losses.hardness(label_maps.counts[every]).tolist()
    return dict(
        counts=label_maps.counts.tolist(),
        threshold=threshold,
        class_losses=class_losses,
        hardness=hardness)


def _read_fitted(path: Path, settings: dict) -> Optional[dict]:
    """Read what an earlier call learned for the same settings."""
    if path.is_file():
        known = read_json(path)
        if known.get('set') == settings_digest(settings):
            return known
    return None


def _suffices(known: Optional[dict], calibrate: bool) -> bool:
    return known is not None and not (calibrate and known['threshold'] is None)
