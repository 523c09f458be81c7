"""Damaged inputs by the thousand: what reads them must be right or say why not.

``python tests/fuzzing.py --seconds 60 --seed 0`` runs on; ``test_fuzzing.py`` runs
a fixed part. An input is a function of the seed and its number, so that a finding
can be had again by ``--only NUMBER``.
"""

import argparse
import io
import json
import os
import pickle
import re
import resource
import shutil
import struct
import sys
import tarfile
import tempfile
import time
import traceback
import zipfile
import zlib
from collections import Counter
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

# What one input may take: of a processor, and of memory at the peak, where a picture
# has the most pixels that are read.
SECONDS, MEGABYTES = 20., 2500.
# The sides that a bomb declares.
BOMB = 30_000
NUMBERS = (0, 1, -1, 255, 256, 30_000, 65_535, 2**31 - 1, -2**31, 2**32 - 1)
VALUES = (None, True, -1, 0, 1000, 1.5, float('nan'), '', 'text', [], [1, 'a'], {},
          dict(a=1), b'bytes')

Files = Dict[str, bytes]


class Target(NamedTuple):
    """A reader of files.

    Args:
        corpus (Dict[str, Files]): Whole inputs, each the files of a folder.
        read (Callable): Reads the first file of an input, or its folder if it has
            several; raises where the result is not right.
        change (Callable, optional): Changes a whole input in a way that only the
            format allows.
        bytes_too (bool): Whether bytes are changed as well, as often. Defaults to
            True.
    """

    corpus: Dict[str, Files]
    read: Callable[[Path], Any]
    change: Optional[Callable[[np.random.Generator, Files], Files]] = None
    bytes_too: bool = True


class Finding(NamedTuple):
    """An input that was neither read rightly nor refused in words."""

    number: int
    target: str
    seed: str
    what: str


# Bytes.


def change_bytes(rng: np.random.Generator, data: bytes,
                 others: List[bytes]) -> bytes:
    """Damage a file in one of the ways that disks, networks and people do."""
    found = bytearray(data)
    size = max(len(found), 1)
    at, end = sorted(rng.integers(0, size, 2))
    kind = rng.integers(0, 9)
    if kind == 0:  # flipped bits, near the beginning as often as anywhere
        reach = int(rng.choice([min(64, size), size]))
        for place in rng.integers(0, reach, rng.integers(1, 9)):
            if place < len(found):
                found[place] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        del found[at:]
    elif kind == 2:
        del found[at:end]
    elif kind == 3:
        found[at:at] = found[at:end]
    elif kind == 4:
        found[at:at] = rng.bytes(int(rng.integers(1, 64)))
    elif kind == 5:
        found[at:end] = bytes(end - at)
    elif kind == 6:  # a number, where formats have sizes
        number = int(rng.choice(NUMBERS)) % 2**32
        at = int(rng.integers(0, min(size, 256)))
        found[at:at + 4] = number.to_bytes(4, rng.choice(['big', 'little']))
    elif kind == 7:  # a number of a text
        numbers = list(re.finditer(rb'\d+', bytes(found[:4096])))
        if numbers:
            span = numbers[rng.integers(len(numbers))].span()
            found[slice(*span)] = str(rng.choice(NUMBERS)).encode()
    else:
        other = others[rng.integers(len(others))]
        found[at:] = other[int(rng.integers(0, len(other) + 1)):]
    return bytes(found)


def change_files(rng: np.random.Generator, files: Files,
                 others: List[bytes]) -> Files:
    """Damage one of the files of an input; lose, double or rename it."""
    files = dict(files)
    name = str(rng.choice(sorted(files)))
    kind = rng.integers(0, 8) if len(files) > 1 else 9
    if kind == 0:
        del files[name]
    elif kind == 1:
        files[f'{Path(name).with_suffix("")}_2{Path(name).suffix}'] = files[name]
    elif kind == 2:
        files[f'renamed_{Path(name).name}'] = files.pop(name)
    elif kind == 3:
        files[name] = files[str(rng.choice(sorted(files)))]
    else:
        files[name] = change_bytes(rng, files[name], others)
    return files


def change_json(rng: np.random.Generator, value: Any) -> Any:
    """Give one key of nested dicts and lists a value of another type."""
    places = []

    def walk(part: Any) -> None:
        for key in part.keys() if isinstance(part, dict) else range(len(part)):
            places.append((part, key))
            if isinstance(part[key], (dict, list)):
                walk(part[key])

    value = json.loads(json.dumps(value))
    walk(value)
    part, key = places[rng.integers(len(places))]
    if isinstance(part, dict) and rng.integers(4) == 0:
        del part[key]
    else:
        part[key] = VALUES[rng.integers(len(VALUES) - 1)]
    return value


# Pictures.


def encoded(pixels: np.ndarray, kind: str, mode: Optional[str] = None,
            **options: Any) -> bytes:
    picture, buffer = Image.fromarray(pixels), io.BytesIO()
    if mode is not None:
        picture = picture.convert(mode)
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def png_of(width: int, height: int, data: bytes, depth: int = 8) -> bytes:
    """Write a gray PNG whose header may lie."""
    found = b'\x89PNG\r\n\x1a\n'
    header = struct.pack('>IIBBBBB', width, height, depth, 0, 0, 0, 0)
    for name, chunk in ((b'IHDR', header), (b'IDAT', zlib.compress(data, 1)),
                        (b'IEND', b'')):
        found += struct.pack('>I', len(chunk)) + name + chunk + struct.pack(
            '>I', zlib.crc32(name + chunk))
    return found


@cache
def bombs() -> Dict[str, bytes]:
    """Pictures of a few bytes that declare, or have, 900 million pixels."""
    jpeg = bytearray(encoded(np.zeros((8, 8), np.uint8), 'jpeg'))
    at = jpeg.index(b'\xff\xc0')
    jpeg[at + 5:at + 9] = struct.pack('>HH', BOMB, BOMB)
    bmp = bytearray(encoded(np.zeros((8, 8), np.uint8), 'bmp'))
    bmp[18:26] = struct.pack('<ii', BOMB, BOMB)
    gif = bytearray(encoded(np.zeros((8, 8), np.uint8), 'gif'))
    gif[6:10] = struct.pack('<HH', BOMB, BOMB)
    return {
        'declared.png': png_of(BOMB, BOMB, bytes(99)),
        'real.png': png_of(BOMB, BOMB, bytes((BOMB // 8 + 1) * BOMB), 1),
        'declared.jpg': bytes(jpeg),
        'declared.bmp': bytes(bmp),
        'declared.gif': bytes(gif),
    }


@cache
def pictures() -> Dict[str, bytes]:
    """Pictures of all kinds, 5 classes where they are label maps."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, (12, 16), np.uint8)
    colours = rng.integers(0, 256, (12, 16, 3), np.uint8)
    frames = [Image.fromarray(labels), Image.fromarray(labels[::-1].copy())]
    turned = Image.Exif()
    turned[0x0112] = 6
    palette = Image.fromarray(labels, 'L').convert('P')
    buffer = io.BytesIO()
    palette.save(buffer, 'png')
    more = dict(save_all=True, append_images=frames[1:])
    return {
        'labels.png': encoded(labels, 'png'),
        'palette.png': buffer.getvalue(),
        'bits.png': encoded(labels * 63, 'png', '1'),
        'deep.png': encoded(labels.astype(np.uint16), 'png'),
        'alpha.png': encoded(labels, 'png', 'LA'),
        'rgb.png': encoded(colours, 'png'),
        'classes.png': encoded(labels[..., None] * np.uint8([50, 0, 0]), 'png'),
        'rgba.png': encoded(colours, 'png', 'RGBA'),
        'rgb.jpg': encoded(colours, 'jpeg'),
        'cmyk.jpg': encoded(colours, 'jpeg', 'CMYK'),
        'turned.jpg': encoded(colours, 'jpeg', exif=turned),
        'turned.png': encoded(colours, 'png', exif=turned),
        'animated.gif': encoded(labels, 'gif', **more),
        'animated.png': encoded(labels, 'png', **more),
        'pages.tif': encoded(labels, 'tiff', **more),
        'deep.tif': encoded(labels.astype(np.uint16), 'tiff'),
        'float.tif': encoded(labels.astype(np.float32), 'tiff'),
        'lossless.webp': encoded(colours, 'webp', lossless=True),
        'labels.bmp': encoded(labels, 'bmp'),
        'empty.png': b'',
        'no_pixels.png': png_of(0, 0, b''),
        **bombs(),
    }


# Weights.


def weights() -> Dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        'semflow.a': torch.randn(4, 3, generator=generator),
        'semflow.b': torch.arange(5),
        'semflow.c': torch.randn(8, generator=generator).bfloat16()
    }


def pickled(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


class _Executed:
    """Would be executed where a pickle is read without care."""

    def __reduce__(self) -> tuple:
        return os.system, ('touch executed', )


def zip_bomb(data: bytes, size: int) -> bytes:
    """Pack a checkpoint anew, compressed, with a record of so many bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(
            buffer, 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as new:
        for name in old.namelist():
            if not name.endswith('data/0'):
                new.writestr(name, old.read(name))
                continue
            with new.open(name, 'w', force_zip64=True) as file:
                for _ in range(size >> 24):
                    file.write(bytes(2**24))
    return buffer.getvalue()


def nested(depth: int) -> bytes:
    found: Any = []
    for _ in range(depth):
        found = [found]
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10 * depth + 1000)
    try:
        return pickle.dumps(found, 2)
    finally:
        sys.setrecursionlimit(limit)


@cache
def checkpoints() -> Dict[str, bytes]:
    """Checkpoints, and what is none."""
    whole = dict(state_dict=weights(), meta=dict(iter=3))
    wide = torch.zeros(1).expand(10**12)
    return {
        'whole.pth': pickled(whole),
        'plain.pth': pickled(weights()),
        'legacy.pth': pickled(whole, _use_new_zipfile_serialization=False),
        'list.pth': pickled([1, 2, 3]),
        'number.pth': pickled(5),
        'no_dict.pth': pickled(dict(state_dict=[1])),
        'no_tensors.pth': pickled(dict(state_dict={'semflow.a': 'text'})),
        'no_names.pth': pickled(dict(state_dict={5: torch.zeros(2)})),
        'meta.pth': pickled(dict(state_dict=weights(), meta=[1])),
        'dtype.pth': pickled({k: v.bool() for k, v in weights().items()}),
        'wide.pth': pickled({'semflow.a': wide}),
        'code.pth': pickled(dict(state_dict=_Executed())),
        'in_itself.pth': pickled(dict(state_dict=pickled(whole))),
        'bomb.pth': zip_bomb(pickled(whole), 2**28),
        'nested.pth': nested(3000),
        'text.pth': b'version https://git-lfs.github.com/spec/v1\n',
    }


def with_header(header: dict, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack('<Q', len(text)) + text + data


def tensor_files() -> Dict[str, bytes]:
    """Files of safetensors, whole and against their rules."""
    def entry(start: int, end: int, shape=(2, ), dtype: str = 'F32') -> dict:
        return dict(dtype=dtype, shape=list(shape), data_offsets=[start, end])

    return {
        'whole.safetensors': save(weights()),
        'overlapping.safetensors': with_header(
            {'semflow.a': entry(0, 8), 'semflow.b': entry(4, 12)}, bytes(12)),
        'huge.safetensors': with_header(
            {'semflow.a': entry(0, 8, (2**40, ))}, bytes(8)),
        'beyond.safetensors': with_header(
            {'semflow.a': entry(0, 2**40, (2**38, ))}, bytes(8)),
        'dtype.safetensors': with_header(
            {'semflow.a': entry(0, 8, dtype='X9')}, bytes(8)),
        'header.safetensors': struct.pack('<Q', 2**60) + b'{}',
    }


def change_header(rng: np.random.Generator, files: Files) -> Files:
    """Change the header of a file of safetensors, and keep its length right."""
    files = dict(files)
    name = str(rng.choice([n for n in sorted(files) if n.endswith('tensors')]))
    data = files[name]
    with suppress(ValueError, struct.error):
        size, = struct.unpack('<Q', data[:8])
        header = json.loads(data[8:8 + size])
        files[name] = with_header(change_json(rng, header), data[8 + size:])
    return files


def change_json_file(rng: np.random.Generator, files: Files) -> Files:
    """Give one key of one JSON file another type."""
    files = dict(files)
    name = str(rng.choice([n for n in sorted(files) if n.endswith('.json')]))
    files[name] = json.dumps(change_json(rng, json.loads(files[name]))).encode()
    return files


def tars() -> Dict[str, bytes]:
    shards = {}
    for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode='w', format=kind) as tar:
            for name, data in (('a.jpg', pictures()['rgb.jpg']),
                               ('a.png', pictures()['labels.png']),
                               ('d/' + 120 * 'long' + '.png', b'x')):
                with suppress(ValueError):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
            link = tarfile.TarInfo('link.png')
            link.type, link.linkname = tarfile.SYMTYPE, '/etc/passwd'
            tar.addfile(link)
        shards[f'{kind}.tar'] = buffer.getvalue()
    return shards


def parquets() -> Dict[str, bytes]:
    import pyarrow as pa
    from pyarrow import parquet
    shards = {}
    for kind in ('NONE', 'SNAPPY', 'ZSTD'):
        buffer = io.BytesIO()
        images = [dict(bytes=pictures()['rgb.jpg'], path=f'{i}.jpg') for i in range(4)]
        labels = [pictures()['labels.png']] * 4
        parquet.write_table(
            pa.table(dict(image=images, label=labels, caption=['a'] * 4)), buffer,
            row_group_size=2, compression=kind)
        shards[f'{kind}.parquet'] = buffer.getvalue()
    return shards


# One run.


class Watch:
    """Measure what a call takes: of a processor, and megabytes at its peak."""

    def __enter__(self) -> 'Watch':
        # The peak is this call's, where the kernel lets it be put back.
        with suppress(OSError):
            Path('/proc/self/clear_refs').write_text('5')
        self._before, self._start = self._peak(), time.process_time()
        return self

    def __exit__(self, *_: Any) -> None:
        self.seconds = time.process_time() - self._start
        self.megabytes = self._peak() - self._before

    @staticmethod
    def _peak() -> float:
        status = Path('/proc/self/status')
        if status.exists():
            found = re.search(r'VmHWM:\s*(\d+)', status.read_text())
            if found:
                return int(found[1]) / 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Fuzzer:
    """Try inputs, and collect what went wrong.

    Args:
        targets (Dict[str, Target]): The readers by name.
        seed (int): Seed of all inputs.
        folder (Path): Where the inputs are written.

    Attributes:
        counts (Counter): How many inputs were ``read`` and ``refused`` by target.
        findings (List[Finding]): What went wrong.
        tried (int): How many inputs there were.
        slowest (float): Seconds of the slowest input.
        largest (float): Megabytes of the largest.
    """

    def __init__(self, targets: Dict[str, Target], seed: int, folder: Path) -> None:
        self.targets = targets
        self.seed = seed
        self.folder = folder
        self.counts: Counter = Counter()
        self.findings: List[Finding] = []
        self.tried = 0
        self.slowest = self.largest = 0.

    def try_input(self, number: int) -> None:
        """Make the input of a number, read it, and judge what happens."""
        rng = np.random.default_rng([self.seed, number])
        name = sorted(self.targets)[number % len(self.targets)]
        target = self.targets[name]
        self.tried += 1
        # The whole ones first.
        turn = number // len(self.targets)
        seeds = sorted(target.corpus)
        whole = turn < len(seeds)
        seed = seeds[turn] if whole else str(rng.choice(seeds))
        files = target.corpus[seed]
        if not whole:
            if target.change is not None and not (
                    target.bytes_too and rng.integers(2)):
                files = target.change(rng, files)
            else:
                others = [d for f in target.corpus.values() for d in f.values()
                          if len(d) < 10**6]
                files = change_files(rng, files, others)
        path = self._write(number, rng, files, target, whole)
        before = self._listed()
        with Watch() as watch:
            problem = self._judge(name, target, path)
        if self._listed() != before:
            problem = problem or f'left {sorted(self._listed() - before)}'
        if watch.seconds > SECONDS:
            problem = problem or f'took {watch.seconds:.1f} s'
        if watch.megabytes > MEGABYTES:
            problem = problem or f'took {watch.megabytes:.0f} MB'
        self.slowest = max(self.slowest, watch.seconds)
        self.largest = max(self.largest, watch.megabytes)
        if problem:
            self.findings.append(Finding(number, name, seed, problem))
        for made in self.folder.iterdir():
            shutil.rmtree(made) if made.is_dir() and not made.is_symlink() \
                else made.unlink()

    def _write(self, number: int, rng: np.random.Generator, files: Files,
               target: Target, plain: bool) -> Path:
        """Write an input; single files under names of all kinds, if not plain."""
        folder = len(next(iter(target.corpus.values()))) > 1
        if not folder:
            name, data = next(iter(files.items()))
            stem = [f'input{number}', f'input{number} \n', f'input{number}\u00fc{{}}%s',
                    os.fsdecode(b'input%d\xff\xfe' % number), f'-input{number}'][
                        0 if plain else int(rng.integers(5))]
            path = self.folder / (stem + Path(name).suffix)
            path.write_bytes(data)
            if rng.integers(8) == 0:
                link = path.with_name(f'link{path.suffix}')
                link.symlink_to(path.name)
                return link
            return path
        path = self.folder / f'folder{number}'
        path.mkdir()
        for name, data in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
        return path

    def _listed(self) -> set:
        return set(self.folder.rglob('*'))

    def _judge(self, name: str, target: Target, path: Path) -> str:
        try:
            target.read(path)
        except (ValueError, OSError) as error:
            self.counts[name, 'refused'] += 1
            said = str(error)
            # A rule of the house: what is missing is a FileNotFoundError.
            if isinstance(error, OSError) and type(error).__name__ not in (
                    'FileNotFoundError', 'UnreadableImageError'):
                return f'{type(error).__name__}: {said}\n{traceback.format_exc()}'
            if path.stem not in said and path.name not in said:
                return f'no file in: {said}\n{traceback.format_exc()}'
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            return traceback.format_exc()
        else:
            self.counts[name, 'read'] += 1
        return ''

    def report(self) -> str:
        """Say what was tried and found."""
        lines = [
            f'{self.tried} inputs, seed '
            f'{self.seed}, the slowest {self.slowest:.2f} s, the largest '
            f'{self.largest:.0f} MB, {len(self.findings)} findings'
        ]
        for name in sorted(self.targets):
            lines.append(f'{name}: {self.counts[name, "read"]} read, '
                         f'{self.counts[name, "refused"]} refused')
        for finding in self.findings:
            lines.append(f'--- {finding.target} {finding.number} ({finding.seed}): '
                         f'{finding.what}')
        return '\n'.join(lines)


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seconds', type=float, default=60)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--first', type=int, default=0)
    parser.add_argument('--only', type=int, help='number of one input')
    return parser.parse_args()


@contextmanager
def limited_memory(size: int = 2**32) -> Iterator[None]:
    """Let allocations beyond so many more bytes fail, for the sake of others."""
    used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
    old = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, old)


def main() -> None:
    """Run on."""
    # As tools do, and before diffusers: it brings what torchvision may lack.
    os.environ.setdefault('OPENCV_IO_MAX_IMAGE_PIXELS', str(2**28))
    import mmseg_semflow.runtime  # noqa: F401
    from fuzz_targets import make_targets
    args = parse_args()
    with tempfile.TemporaryDirectory() as folder, \
            tempfile.TemporaryDirectory() as scratch:
        fuzzer = Fuzzer(make_targets(Path(scratch)), args.seed, Path(folder))
        start, number = time.monotonic(), args.first
        with limited_memory():
            if args.only is not None:
                fuzzer.try_input(args.only)
            while args.only is None and time.monotonic() - start < args.seconds:
                fuzzer.try_input(number)
                number += 1
        print(fuzzer.report())
        sys.exit(bool(fuzzer.findings))


if __name__ == '__main__':
    main()
