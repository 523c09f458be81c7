r"""Time the reading of a dataset from shards beside the same in a folder.

Packs the pairs of a folder in mmsegmentation's layout into tar and Parquet files,
reads all of them in random order by LoadImageFromFile and LoadAnnotations, in turns,
and prints the median pairs per second of one process. Parquet is read in order
too, since a group of rows is read as a whole. Example:
    python benchmarks/shards.py data/camvid --split train --rounds 5
"""

import argparse
import random
import statistics
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Iterator, List, Tuple

import pyarrow as pa
import pyarrow.parquet
from mmengine.registry import TRANSFORMS, init_default_scope

import mmseg_semflow  # noqa: F401

PER_SHARD = 100


def write_shards(pairs: List[Tuple[Path, Path]], out: Path) -> None:
    """Write what the shards of both kinds hold."""
    for number, start in enumerate(range(0, len(pairs), PER_SHARD)):
        part = pairs[start:start + PER_SHARD]
        with tarfile.open(out / f'{number:05d}.tar', 'w') as tar:
            for image, labels in part:
                for path in (image, labels):
                    tar.add(path, arcname=f'{image.stem}{path.suffix}')
        pa.parquet.write_table(
            pa.table({
                name: [dict(bytes=pair[i].read_bytes(), path=pair[i].name)
                       for pair in part] for i, name in enumerate(('image', 'label'))
            }), out / f'{number:05d}.parquet')


def paths(pairs: List[Tuple[Path, Path]], out: Path,
          kind: str) -> Iterator[Tuple[str, str]]:
    """Tell where the pairs are to be read."""
    for index, (image, labels) in enumerate(pairs):
        shard, row = divmod(index, PER_SHARD)
        if kind == 'folder':
            yield str(image), str(labels)
        elif kind == 'tar':
            shard = f'tar://{out}/{shard:05d}.tar/{image.stem}'
            yield f'{shard}{image.suffix}', f'{shard}{labels.suffix}'
        else:
            row = f'parquet://{out}/{shard:05d}.parquet/{row:09d}'
            yield f'{row}.image', f'{row}.label'


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('root', type=Path, help='with img_dir and ann_dir')
    parser.add_argument('--split', default='train')
    parser.add_argument('--rounds', type=int, default=5)
    args = parser.parse_args()
    init_default_scope('mmseg')
    load = [TRANSFORMS.build(dict(type=name))
            for name in ('LoadImageFromFile', 'LoadAnnotations')]
    images = sorted((args.root / 'img_dir' / args.split).iterdir())
    pairs = [(image, next((args.root / 'ann_dir' / args.split).glob(f'{image.stem}.*')))
             for image in images]
    found = {}
    with tempfile.TemporaryDirectory() as out:
        write_shards(pairs, Path(out))
        for number in range(args.rounds + 1):
            for name in ('folder', 'tar', 'parquet', 'parquet in order'):
                listed = list(paths(pairs, Path(out), name))
                if 'order' not in name:
                    random.Random(number).shuffle(listed)
                begun = time.perf_counter()
                for image, labels in listed:
                    results = dict(
                        img_path=image, seg_map_path=labels, seg_fields=[],
                        label_map=None, reduce_zero_label=False)
                    for transform in load:
                        results = transform(results)
                if number:  # after one to warm up
                    found.setdefault(name, []).append(
                        len(listed) / (time.perf_counter() - begun))
    first = statistics.median(found['folder'])
    for name, rates in found.items():
        rate = statistics.median(rates)
        print(f'{name:17} {rate:7.1f} pairs/s, {rate / first:.2f} of a folder')


if __name__ == '__main__':
    main()
