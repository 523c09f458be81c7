"""A set of generated pictures with labels, in mmsegmentation's layout."""

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from pprint import pformat
from typing import Any, Dict, Iterator, List, Optional, Set, Union

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.utils import ProgressBar

from mmseg_semflow.apis.tables import to_markdown
from mmseg_semflow.datasets.cached_latents import as_json, first_difference
from mmseg_semflow.datasets.label_maps import LabelMaps, class_pixels
from mmseg_semflow.files import PARTIAL, read_json, write_bytes
from mmseg_semflow.pixels import paint
from mmseg_semflow.synthesis import Synthesizer
from mmseg_semflow.synthesis.gallery import to_grid
from mmseg_semflow.synthesis.pictures import (
    Palette,
    read_label_map,
    read_record,
    read_rgb,
    write_picture,
)

from .filters import CycleFilter, LossFilter
from .mixing import mixed_dataset, pipeline_for_generated, repeats_of_parts
from .views import MaskViews, enlarge

KEPT, REJECTED = '', 'rejected'
SHOWN, SHEET_WIDTH = 24, 320
# Of a BaseSegDataset.
GENERATED_METAINFO = 'classes', 'label_map', 'palette', 'reduce_zero_label'
DATASET_HEAD = '''# A generated set, and its mix with the real pictures of its masks,
# about 1:1. In a config upon a segmentor's and this file:
#   train_dataloader = dict(dataset=dict(_base_.mixed_dataset, _delete_=True))
# The transforms of the mix are those of the generator's training; before that line
#   real, generated = (part.dataset for part in _base_.mixed_dataset.datasets)
{real}#   generated.pipeline = [
#       dict(transform, reduce_zero_label=False)
#       if transform.type == 'LoadAnnotations' else transform
#       for transform in _base_.train_pipeline]
#   del real, generated
# takes the segmentor's. Label 0 is a class in the generated part.
'''
# By whether the real part is one dataset.
REAL_PIPELINE = {
    True: '#   real.pipeline = _base_.train_pipeline\n',
    False: '#   (the pipeline of each dataset that real consists of, too)\n'
}


class RealPairs(Sequence):
    """Real pictures and their labels, brought to the size of a set.

    Args:
        label_maps (LabelMaps): The labels.
        size (Tuple[int, int]): Height and width.
        indices (Sequence[int]): Which.
    """

    def __init__(self, label_maps: LabelMaps, size: Sequence[int],
                 indices: Sequence[int]) -> None:
        self.label_maps = label_maps
        self.size = tuple(size)
        self.indices = list(indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> tuple:
        index = self.indices[place]
        label_map = enlarge(self.label_maps[index], self.size, 1.)
        image = cv2.resize(
            read_rgb(self.label_maps.image_path(index)),
            label_map.shape[::-1],
            interpolation=cv2.INTER_AREA)
        top, left = ((side - crop) // 2 for side, crop in zip(
            label_map.shape, self.size, strict=True))
        window = (slice(top, top + self.size[0]), slice(left, left + self.size[1]))
        return (np.ascontiguousarray(image[window]),
                np.ascontiguousarray(label_map[window]))


def check_folder(out: Union[str, Path], settings: dict) -> None:
    """Check that a folder is free, or of a set of the same settings.

    Args:
        out (str | Path): The folder.
        settings (dict): What its pictures depend on: the weights, the masks, the
            options of choice, synthesis and filters.

    Raises:
        ValueError: If it is of other settings, or holds files but none.
    """
    out = Path(out)
    path = out / 'settings.json'
    # Listed before it is looked for, which another process may be writing, or may
    # have been killed at.
    others = [file for file in (out.iterdir() if out.is_dir() else ())
              if not (file.name.startswith(path.name) and file.suffix == PARTIAL)]
    if path.is_file():
        different = first_difference(read_json(path), as_json(settings))
        if different:
            name, was, now = different
            raise ValueError(
                f'{out} holds a set of other settings: {name} was {was!r} and is '
                f'{now!r} now. Choose another folder (--out)')
    elif others:
        raise ValueError(f'{out} holds files, but no set: there is no '
                         'settings.json. Choose another folder (--out)')


def settings_digest(settings: Any) -> str:
    """Compute the beginning of the SHA-256 of settings, 16 hexadecimal digits."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class LabelledSet:
    """Draw pictures for masks, judge them, and keep them with their labels.

    Every picture is a function of the settings and its number: several processes
    share the numbers, an interrupted call continues, a later one adds pictures,
    and the files are the same. Its record is a text in the picture, written last.
    Which pictures are rejected is settled when all are there.

    ::

        out/img_dir/train/000000.png    RGB
        out/ann_dir/train/000000.png    labels, 255 is void
        out/rejected/...                what a filter threw away
        out/settings.json, manifest.jsonl, dataset.py, statistics.md,
        contact_sheet.png, rejected.png

    Args:
        out (str | Path): The folder.
        views (MaskViews): Makes the masks.
        synthesizer (Synthesizer): Draws.
        classes (Sequence[str]): Names of the classes.
        palette (Sequence[Sequence[int]]): RGB colour of each.
        settings (dict): What :func:`check_folder` got.
        real (dict): Config of the dataset of the masks, with its pipeline.
        cycle (CycleFilter): Scores, and rejects, pictures.
        losses (LossFilter, optional): Voids pixels. Defaults to None.
    """

    def __init__(self,
                 out: Union[str, Path],
                 views: MaskViews,
                 synthesizer: Synthesizer,
                 classes: Sequence[str],
                 palette: Palette,
                 settings: dict,
                 real: dict,
                 cycle: CycleFilter,
                 losses: Optional[LossFilter] = None) -> None:
        self.out = Path(out)
        self.views = views
        self.synthesizer = synthesizer
        self.classes = tuple(classes)
        self.palette = [list(colour) for colour in palette]
        self.real = real
        self.losses = losses
        self.cycle = cycle
        self.digest = settings_digest(settings)
        style = synthesizer.style
        self._shared = dict(
            seed=synthesizer.seed, style=style and style.settings)

    def paths(self, number: int, folder: str = KEPT) -> Dict[str, Path]:
        """Tell the files of a picture, kept or ``'rejected'``."""
        return {
            kind: self.out / folder / f'{kind}_dir/train/{number:06d}.png'
            for kind in ('img', 'ann')
        }

    def record(self, number: int) -> Optional[dict]:
        """Read the record of a picture that is done; None if it is not."""
        # The first again: another process may be moving it there.
        for folder in (KEPT, REJECTED, KEPT):
            path = self.paths(number, folder)['img']
            if path.is_file():
                record = read_record(path)
                if record.get('set') == self.digest:
                    # Notes of before lack what all pictures of a set share.
                    return {**self._shared, **record, 'kept': folder == KEPT}
        return None

    def generate(self, num_images: int, rank: int = 0, world_size: int = 1) -> None:
        """Draw what is missing of the first pictures.

        Args:
            num_images (int): Number of pictures, those that get rejected included.
            rank (int): Which of ``world_size`` processes this is. Defaults to 0.
            world_size (int): Number of processes. Defaults to 1.

        Raises:
            OSError: If a picture cannot be written.
        """
        size = self.synthesizer.batch_size
        blocks = [
            range(first, min(first + size, num_images))
            for first in range(0, num_images, size)
        ][rank::world_size]
        progress = ProgressBar(sum(map(len, blocks))) if rank == 0 and blocks else None
        for block in blocks:
            missing = [n for n in block if self.record(n) is None]
            if missing:
                # All of a block: what shares a batch rounds alike.
                self._draw(block, missing)
            for _ in block:
                if progress:
                    progress.update()
        if progress:
            print(flush=True)

    def _draw(self, numbers: Sequence[int], wanted: Sequence[int]) -> None:
        views = [self.views(number) for number in numbers]
        requests = [(torch.from_numpy(view.label_map.astype(np.int64)), number)
                    for number, view in zip(numbers, views, strict=True)]
        images = self.synthesizer.synthesize(requests)
        for request, view, image in zip(requests, views, images, strict=True):
            number = request[1]
            if number not in wanted:
                continue
            picture = np.ascontiguousarray(image.permute(1, 2, 0).cpu())
            scores = self.cycle(picture, view.label_map)
            label_map = view.label_map
            if self.losses is not None:
                label_map, found = self.losses(picture, label_map)
                scores |= found
            record = dict(
                number=number,
                **self._shared,
                **view.record,
                **self._special(*request),
                **scores,
                void=round(float((label_map == 255).mean()), 4),
                set=self.digest)
            paths = self.paths(number)
            write_bytes(paths['ann'],
                        cv2.imencode('.png', label_map)[1].tobytes())
            write_picture(paths['img'], picture, json.dumps(record))

    def _special(self, label_map: torch.Tensor, number: int) -> dict:
        """Tell what is special to the style of a picture."""
        style = self.synthesizer.style
        if style is None:
            return {}
        label_map = self.synthesizer.resize(label_map)
        return style.record(
            number, style.choose(label_map, number, self.synthesizer.seed))

    def finish(self, num_images: int, min_agreement: float) -> Optional[List[dict]]:
        """Reject pictures, and write what describes the set, once all are there.

        Pictures of earlier calls beyond ``num_images`` belong to the set, too.

        Args:
            num_images (int): Number of pictures.
            min_agreement (float): Pictures of less are rejected, and others of
                earlier calls are taken back.

        Returns:
            Optional[List[dict]]: The records, in order; None if other processes
            have not written all of them yet.

        Raises:
            ValueError: If all pictures were rejected, or a file beside them is none of
                the set.
        """
        # Before any is read: another process may be moving them from one to the other.
        further = self._further_pictures(num_images)
        records = [self.record(number) for number in range(num_images)]
        if None in records:
            return None
        for number, path in further.items():
            records.append(self.record(number))
            if records[-1] is None:
                raise ValueError(
                    f'{path} is no picture of this set, or is damaged: remove it, or '
                    'have it drawn again by a larger --num-images')
        self._remove_partials({record['number'] for record in records})
        for record in records:
            was, record['kept'] = record['kept'], record['agreement'] >= min_agreement
            self._place(record['number'], was, record['kept'])
        write_bytes(self.out / 'manifest.jsonl', ''.join(
            json.dumps(record) + '\n' for record in records).encode())
        kept = [record for record in records if record['kept']]
        rejected = [record for record in records if not record['kept']]
        for name, shown in (('contact_sheet', kept), ('rejected', rejected)):
            if shown:
                self._write_sheet(self.out / f'{name}.png', shown[:SHOWN])
            else:
                (self.out / f'{name}.png').unlink(missing_ok=True)
        if not kept:
            for name in ('statistics.md', 'dataset.py'):
                (self.out / name).unlink(missing_ok=True)
            raise ValueError(
                f'all {len(records)} pictures were rejected: their agreement is '
                f'below {min_agreement:.3f}, see {self.out / "rejected.png"}. Lower '
                'it (--min-agreement): none is drawn again, and dataset.py, which is '
                'removed, comes back')
        write_bytes(self.out / 'statistics.md', self._statistics(kept).encode())
        write_bytes(self.out / 'dataset.py', self._dataset(len(kept)).encode())
        return records

    def _further_pictures(self, num_images: int) -> Dict[int, Path]:
        """List the files of earlier calls beyond ``num_images`` by their numbers.

        What has no number is listed below 0, where no picture is.
        """
        found = {}
        for folder in (KEPT, REJECTED):
            for path in self.paths(0, folder)['img'].parent.glob('*.png'):
                number = int(path.stem) if path.stem.isdecimal() else -1
                if path != self.paths(number, folder)['img']:
                    number = -1
                if not 0 <= number < num_images:
                    found[number] = path
        return dict(sorted(found.items()))

    def _remove_partials(self, numbers: Set[int]) -> None:
        """Remove what killed calls left of pictures that are there now."""
        names = {self.paths(number)['img'].name for number in numbers}
        for folder in (KEPT, REJECTED):
            for path in self.paths(0, folder).values():
                for partial in path.parent.glob(f'*{PARTIAL}'):
                    if partial.name[:partial.name.find('.png') + 4] in names:
                        partial.unlink(missing_ok=True)

    def _place(self, number: int, was_kept: bool, kept: bool) -> None:
        """Move a picture and its labels to what is kept, or rejected.

        One by one, the picture last: a call that was killed between the two is caught
        up. Other processes may be placing the same.
        """
        old, new = (self.paths(number, folder)
                    for folder in ((REJECTED, KEPT) if kept else (KEPT, REJECTED)))
        for kind in ('ann', 'img'):
            new[kind].parent.mkdir(parents=True, exist_ok=True)
            if was_kept != kept or not new[kind].is_file():
                with suppress(FileNotFoundError):
                    os.replace(old[kind], new[kind])
            # A damaged one, which was drawn again.
            else:
                old[kind].unlink(missing_ok=True)

    def _write_sheet(self, path: Path, records: Sequence[dict]) -> None:
        rows: List[List[np.ndarray]] = []
        for start in range(0, len(records), 6):
            part = list(self._pictures(records[start:start + 6]))
            rows += [[image for image, _ in part], [mask for _, mask in part]]
        write_picture(path, to_grid(rows))

    def _pictures(self, records: Sequence[dict]) -> Iterator[tuple]:
        for record in records:
            paths = self.paths(record['number'],
                               KEPT if record['kept'] else REJECTED)
            labels = read_label_map(paths['ann'], self.synthesizer.semflow.codec)
            yield tuple(
                _shrunk(pixels) for pixels in (
                    read_rgb(paths['img']), paint(labels, self.palette).numpy()))

    def _statistics(self, kept: Sequence[dict]) -> str:
        before = self.views.label_maps.counts.sum(0)
        after = sum(
            class_pixels(
                cv2.imread(
                    str(self.paths(record['number'])['ann']), cv2.IMREAD_UNCHANGED),
                len(self.classes)) for record in kept)
        return to_markdown([{
            'class': name,
            'masks, %': 100 * float(was),
            'set, %': 100 * float(now)
        } for name, was, now in zip(
            self.classes, before / before.sum(), after / max(after.sum(), 1),
            strict=True)])

    def _dataset(self, num_kept: int) -> str:
        dataset = self.views.label_maps.dataset
        generated = dict(
            type='BaseSegDataset',
            data_root=str(self.out.resolve()),
            data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train'),
            img_suffix='.png',
            seg_map_suffix='.png',
            reduce_zero_label=False,
            metainfo=dict(classes=self.classes, palette=self.palette))
        mixed = mixed_dataset(
            self.real, dict(generated, pipeline=pipeline_for_generated(self.real)),
            repeats_of_parts(len(dataset), num_kept),
            [*dataset.metainfo, *GENERATED_METAINFO])
        named = Config(dict(generated_dataset=generated, mixed_dataset=mixed)).to_dict()
        head = DATASET_HEAD.format(real=REAL_PIPELINE['pipeline' in self.real])
        return head + ''.join(
            f'{name} = {pformat(dataset, width=88, sort_dicts=False)}\n'
            for name, dataset in named.items())


def _shrunk(pixels: np.ndarray) -> np.ndarray:
    """Resize a picture to at most :data:`SHEET_WIDTH` columns."""
    height, width = pixels.shape[:2]
    if width <= SHEET_WIDTH:
        return pixels
    return cv2.resize(
        pixels, (SHEET_WIDTH, round(height * SHEET_WIDTH / width)),
        interpolation=cv2.INTER_AREA)
