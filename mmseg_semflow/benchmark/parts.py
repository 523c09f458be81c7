"""The parts of the GPU's report: what is measured, in what order of worth."""

import copy
import csv
import gc
import io
import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import mmcv
import torch
from mmengine.config import Config
from mmengine.device import get_device

from mmseg_semflow.apis.costs import Size, estimate_training_memory
from mmseg_semflow.apis.loading import innermost
from mmseg_semflow.apis.tables import Row

from .measure import Benchmark
from .report import Part, PartResults, Tables
from .timing import CUDA, alternate, median, peak_memory, seconds

STEP, RELEASED, MEMORY = 'step', 'released', 'memory'
CITYSCAPES, FACES = 'semflow_cityscapes', 'semflow_celebamask_hq'
CAMVID = dict(
    semflow='semflow_camvid_taef2',
    segformer='comparison/segformer_b0_camvid320',
    maskformer='comparison/maskformer_camvid320')
PAPERS_GPU = 80e9
# Networks of Stable Diffusion's kind without its size, where it does not count.
TINY = {
    'model.semflow.network.unet': dict(
        down_block_types=('CrossAttnDownBlock2D', 'DownBlock2D'),
        up_block_types=('UpBlock2D', 'CrossAttnUpBlock2D'),
        block_out_channels=(32, 32),
        layers_per_block=1),
    'model.semflow.autoencoder.vae': dict(
        down_block_types=('DownEncoderBlock2D', ) * 2,
        up_block_types=('UpDecoderBlock2D', ) * 2,
        block_out_channels=(32, 32),
        layers_per_block=1)
}
UNCHECKPOINTED = {'model.semflow.network.gradient_checkpointing': False}
CHANNELS_LAST = {'model.semflow.channels_last': True}
COMPILED = {'model.semflow.compile_network': True}
FUSED = {'optim_wrapper.optimizer.fused': True}
STEP_OPTIONS = {
    'recipe': {},
    'no checkpointing': UNCHECKPOINTED,
    'channels_last': {**UNCHECKPOINTED, **CHANNELS_LAST},
    'fused AdamW': {**UNCHECKPOINTED, **FUSED},
    'compiled': {**UNCHECKPOINTED, **COMPILED},
    'compiled, channels_last, fused AdamW': {
        **UNCHECKPOINTED, **COMPILED, **CHANNELS_LAST, **FUSED}
}


@dataclass(frozen=True)
class Sizes:
    """How large everything is that is measured.

    Attributes:
        step (Tuple[int, int]): Height and width of the step's images.
        step_batch (int): Images of a step.
        image (Tuple[int, int]): Height and width of what is segmented and
            synthesised, and of the step whose memory is measured.
        num_steps (Tuple[int, ...]): Solver steps.
        batches (Tuple[int, int]): Images that are segmented or synthesised at once.
        memory_batches (Tuple[int, int]): Images of a step whose memory is measured,
            with gradient checkpointing and without.
        most (int): No larger batch is tried.
        repeats (int): Rounds of every measurement.
        trial (int): Iterations from which the pace of a training is known.
        train_seconds (float): How long each method trains on CamVid.
        num_images (int): How many of CamVid's pictures they are compared on.
        workers (int): A loader's workers while they train.
        loader_seconds (float): How long a loader is looked at.
        files (Tuple[int, int], optional): Height and width of files that stand in
            for missing data. None is twice the config's size.
        changes (dict): What is changed in the configs of Stable Diffusion's size.
    """

    step: Size = (512, 512)
    step_batch: int = 16
    image: Size = (512, 1024)
    num_steps: Tuple[int, ...] = (1, 5, 25)
    batches: Tuple[int, int] = (1, 8)
    memory_batches: Tuple[int, int] = (32, 16)
    most: int = 256
    repeats: int = 5
    trial: int = 200
    train_seconds: float = 240.
    num_images: int = 101
    workers: int = 8
    loader_seconds: float = 3.
    files: Optional[Size] = None
    changes: Dict[str, Any] = field(default_factory=dict)


REHEARSAL = Sizes(
    step=(16, 16),
    step_batch=2,
    image=(16, 32),
    num_steps=(1, 2),
    batches=(1, 2),
    memory_batches=(2, 1),
    most=3,
    repeats=1,
    trial=2,
    train_seconds=0.,
    num_images=1,
    workers=0,
    loader_seconds=0.,
    files=(32, 64),
    # Many CPUs have no instructions for bfloat16.
    changes={**TINY, 'optim_wrapper.dtype': 'float32'})


def _read(root: Path, name: str, *changes: dict) -> Config:
    cfg = Config.fromfile(root / 'configs' / f'{name}.py')
    for change in changes:
        cfg.merge_from_dict(copy.deepcopy(change))
    return cfg


class _Benchmarks:
    """Benchmarks of one config in several forms, whose FLOPs are counted once."""

    def __init__(self, results: PartResults, name: str, root: Path,
                 sizes: Sizes) -> None:
        self.scratch = results.out / 'scratch'
        self.name, self.root, self.sizes = name, root, sizes
        self.flops: Dict[str, int] = {}

    def __call__(self, *changes: dict, **kwargs) -> Benchmark:
        cfg = _read(self.root, self.name, self.sizes.changes, *changes)
        bench = Benchmark(
            cfg, self.scratch, repeats=self.sizes.repeats,
            file_size=self.sizes.files, **kwargs)
        self.flops = self.flops or bench.flops
        bench.flops = self.flops
        return bench


def _tables(bench: Benchmark, *more: str) -> Tables:
    shown = ('dtype', 'size', 'batch_size', 'optimizer', 'peak_GFLOP_per_second',
             'clock', 'data')
    tables = {name: rows for name, rows in bench.tables.items() if rows}
    conditions = bench.conditions
    return dict(tables, conditions=[{key: conditions[key] for key in shown}])


def run_tests(results: PartResults, sizes: Sizes, root: Path) -> None:
    """Run the tests with the marker ``cuda``, each a case."""
    import pytest

    # Without it CUDA's products are not deterministic.
    os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    nodes = dict.fromkeys(
        case['node'] for name, case in results.found['cases'].items()
        if results.has(name))

    class Recorder:

        @staticmethod
        def pytest_runtest_logreport(report: Any) -> None:
            if report.when != 'call' and report.outcome == 'passed':
                return
            case = dict(tables=dict(tests=[
                dict(outcome=report.outcome, seconds=round(report.duration, 2))
            ]))
            if report.failed:
                crash = getattr(report.longrepr, 'reprcrash', None)
                case = dict(error=getattr(crash, 'message', 'failed')[:1000])
            elif report.skipped:
                case['tables']['tests'][0]['why'] = str(report.longrepr[-1])
            results.add(
                report.nodeid.rpartition('::')[2],
                seconds=round(report.duration, 2),
                node=report.nodeid,
                **case)

    code = pytest.main([
        '-m', 'cuda', '-p', 'no:cacheprovider', '-c', str(root / 'pyproject.toml'),
        '--rootdir', str(root), *(f'--deselect={node}' for node in nodes),
        str(root / 'tests/test_cuda.py')
    ], [Recorder()])
    no_more = code == pytest.ExitCode.NO_TESTS_COLLECTED and nodes
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) and not no_more:
        raise RuntimeError(f'pytest ended with {code!r}')


def run_step(results: PartResults, sizes: Sizes, root: Path) -> None:
    """Measure the training step beside the plain one, in the forms it has."""
    build = _Benchmarks(results, CITYSCAPES, root, sizes)

    def measure(options: dict) -> Tables:
        bench = build(options, size=sizes.step, batch_size=sizes.step_batch)
        bench.measure_steps()
        bench.measure_profile()
        tables = _tables(bench)
        cached, = (row['ratio'] for row in tables['ratios']
                   if 'cached latents / plain' in row['what'])
        of_unet = [row for row in tables['profile']
                   if row['part'] in ('forward', 'backward')]
        share = sum(row['seconds'] * row['share_of_peak'] for row in of_unet) / sum(
            row['seconds'] for row in of_unet)
        return dict(
            reached=[
                dict(what='rate: step from cached latents / plain step', asked=2.,
                     found=cached),
                dict(what='share of the peak in the UNet part', asked=0.45,
                     found=share)
            ],
            **tables)

    for name, options in STEP_OPTIONS.items():
        results.measure(name, lambda options=options: measure(options))


def run_released(results: PartResults, sizes: Sizes, root: Path) -> None:
    """Measure the step beside that of the authors' released code."""
    build = _Benchmarks(results, CITYSCAPES, root, sizes)

    def measure(options: dict) -> Tables:
        bench = build(options, size=sizes.step, batch_size=sizes.step_batch)
        bench.measure_released()
        tables = _tables(bench)
        return dict(
            reached=[
                dict(what=row['what'], asked=2., found=row['ratio'])
                for row in tables['ratios']
            ],
            **tables)

    for name in ('no checkpointing', 'compiled, channels_last, fused AdamW'):
        results.measure(name, lambda name=name: measure(STEP_OPTIONS[name]))


def run_inference(results: PartResults, sizes: Sizes, root: Path) -> None:
    """Measure segmentation and synthesis, compiled and not."""
    build = _Benchmarks(results, CITYSCAPES, root, sizes)
    half = {'model.test_cfg.dtype': 'bfloat16'}

    def measure(change: dict, compiled: Any = None, single: bool = False) -> Tables:
        bench = build(change, size=sizes.image, batch_size=max(sizes.batches))
        if compiled is not None:
            bench.model.semflow.network.compile(**compiled)
        bench.measure_inference(sizes.num_steps, (1, ) if single else sizes.batches)
        if not single:
            for num_steps in sizes.num_steps:
                bench.measure_synthesis(num_steps)
        return _tables(bench)

    results.measure('bfloat16', lambda: measure(half))
    # For single images: a larger batch keeps the GPU busy as it is, and would be
    # compiled anew.
    results.measure(
        'bfloat16, CUDA graphs',
        lambda: measure(half, dict(mode='reduce-overhead'), True))
    results.measure('bfloat16, compiled', lambda: measure(half, {}, True))
    results.measure('bfloat16, channels_last',
                    lambda: measure({**half, **CHANNELS_LAST}))
    results.measure('float32', lambda: measure({}, single=True))


def largest_that_fits(fits: Callable[[int], bool], start: int, most: int) -> int:
    """Find the largest number that fits, by halving.

    Args:
        fits (Callable): Tells whether a number fits; so do all below it.
        start (int): The first that is tried.
        most (int): The last.

    Returns:
        int: The number, 0 if none fits.
    """
    low, high, number = 0, most + 1, start
    while high - low > 1:
        if fits(number):
            low = number
        else:
            high = number
        number = (low + high) // 2
    return low


def run_memory(results: PartResults, sizes: Sizes, root: Path) -> None:
    """Measure the memory of a step beside its estimate, and how much fits."""
    build = _Benchmarks(results, CITYSCAPES, root, sizes)

    def measure(options: dict, count: int) -> Tables:
        bench = build(options, size=sizes.image, batch_size=1)
        bench.model.train()
        # The first one makes the optimizer's state.
        bench.train_batch(count)
        measured = peak_memory(lambda: bench.train_batch(count))
        times = [seconds(lambda: bench.train_batch(count))
                 for _ in range(sizes.repeats)]
        estimated = estimate_training_memory(
            bench.cfg, count, sizes.image, distributed=False)['total']
        return dict(
            steps=[
                dict(
                    batch_size=count,
                    seconds=median(times),
                    images_per_second=count / median(times),
                    memory_GiB=measured / 2**30,
                    estimated_GiB=estimated / 2**30,
                    measured_over_estimated=measured / estimated)
            ])

    def measure_largest(memory: float) -> Tables:
        bench = build(size=sizes.image, batch_size=1)
        bench.model.train()

        def fits(count: int) -> bool:
            # Of one that did not fit.
            bench.wrapper.zero_grad()
            gc.collect()
            torch.cuda.empty_cache()
            try:
                bench.train_batch(count)
            except torch.OutOfMemoryError:
                return False
            return True

        with _memory_of(memory):
            found = largest_that_fits(fits, sizes.memory_batches[0], sizes.most)
        return dict(
            largest=[
                dict(memory_GB=memory / 1e9, asked=sizes.memory_batches[0],
                     found=found)
            ])

    with_checkpointing, without = sizes.memory_batches
    results.measure('recipe', lambda: measure({}, with_checkpointing))
    results.measure('no checkpointing', lambda: measure(UNCHECKPOINTED, without))
    total = torch.cuda.get_device_properties(0).total_memory if CUDA else PAPERS_GPU
    if total > 1.1 * PAPERS_GPU:
        results.measure('largest batch in 80 GB',
                        lambda: measure_largest(PAPERS_GPU))
    results.measure('largest batch', lambda: measure_largest(total))


@contextmanager
def _memory_of(size: float) -> Iterator[None]:
    """Let torch take so many bytes of a GPU at most."""
    if not CUDA:
        yield
        return
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1., size / total))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.)


def run_tool(root: Path, name: str, *args: Any) -> None:
    """Run a tool in a process of its own.

    Args:
        root (Path): The repository.
        name (str): The tool.
        *args: Its arguments.

    Raises:
        RuntimeError: If it fails; with the last line that it said.
    """
    last = ''
    with subprocess.Popen(
            [sys.executable, str(root / 'tools' / name), *map(str, args)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        # As it says it: it may be stopped.
        for line in process.stdout:
            print(line, end='', flush=True)
            last = line.strip() or last
    if process.returncode:
        raise RuntimeError(f'{name} failed: {last}')


def rescale(cfg: Config, max_iters: int) -> None:
    """Let a recipe of CamVid end after another number of iterations.

    Args:
        cfg (Config): The recipe, which is changed: its schedule, and when a loss
            begins.
        max_iters (int): The number.
    """
    scale = max_iters / cfg.train_cfg.max_iters
    for loss in cfg.model.get('semflow', {}).get('losses', ()):
        if 'begin' in loss:
            loss.begin = round(scale * loss.begin)
    decay = cfg.param_scheduler[-1]
    decay.end = max(max_iters, decay.begin + 1)
    cfg.train_cfg.update(max_iters=max_iters, val_interval=max_iters)
    cfg.default_hooks.logger.interval = min(50, max(1, max_iters // 4))


def run_camvid(results: PartResults, sizes: Sizes, root: Path) -> None:
    """Train on CamVid, each method for as long, and compare them."""
    folder = results.out / 'camvid'

    def write(name: str, stem: str, max_iters: int, **train_cfg) -> Path:
        cfg = _read(root, CAMVID[name])
        rescale(cfg, max_iters)
        cfg.train_cfg.update(train_cfg)
        cfg.train_dataloader.update(
            num_workers=sizes.workers, persistent_workers=sizes.workers > 0)
        cfg.default_hooks.checkpoint.interval = max(1, max_iters // 4)
        if CUDA:
            # In half precision mmdet's costs of the masks are no numbers.
            cfg.optim_wrapper.dtype = 'float32' if name == 'maskformer' else 'bfloat16'
        if 'semflow' in cfg.model:
            cfg.train_dataloader.dataset.cache = str(folder / 'latents')
        cfg.work_dir = str(folder / stem)
        path = folder / f'{stem}.py'
        path.parent.mkdir(parents=True, exist_ok=True)
        cfg.dump(str(path))
        return path

    def cache() -> Tables:
        run_tool(root, 'cache_latents.py',
                 write('semflow', 'semflow', sizes.trial))
        return {}

    def pace(name: str) -> Tables:
        # No validation, which is not training.
        path = write(name, f'{name}_trial', sizes.trial, val_begin=sizes.trial + 1)
        # Of a trial that was stopped.
        shutil.rmtree(path.with_suffix(''), ignore_errors=True)
        run_tool(root, 'train.py', path)
        # The first is that of a cold start.
        times = _logged_times(path.with_suffix(''))[1:]
        return dict(pace=[dict(seconds_per_iteration=sum(times) / len(times))])

    def train(name: str) -> Tables:
        row, = (row for row in results.rows('pace') if row['case'] == f'{name}, pace')
        iteration = row['seconds_per_iteration']
        max_iters = max(sizes.trial, int(sizes.train_seconds / iteration))
        run_tool(root, 'train.py', write(name, name, max_iters), '--resume')
        times = _logged_times(folder / name)
        return dict(
            training=[
                dict(
                    iterations=max_iters,
                    seconds_per_iteration=sum(times) / len(times),
                    minutes=max_iters * sum(times) / len(times) / 60)
            ])

    # Figures may outlive a machine, and with it what was trained and cached there;
    # latents that are there stay.
    for name in CAMVID:
        if not (folder / name / 'last_checkpoint').is_file():
            results.drop(name)
    if not results.has('semflow'):
        results.drop('latents')
    results.measure('latents', cache)
    for name in CAMVID:
        results.measure(f'{name}, pace', lambda name=name: pace(name))
        if results.has(f'{name}, pace'):
            results.measure(name, lambda name=name: train(name))
    trained = [name for name in CAMVID if results.has(name)]
    if trained:
        results.measure(
            f'compared: {", ".join(trained)}',
            lambda: _compare(root, folder, trained, sizes.num_images))


def _logged_times(work_dir: Path) -> List[float]:
    """Read the seconds per iteration that a training has logged."""
    times = []
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        lines = map(json.loads, path.read_text().splitlines())
        times += [line['time'] for line in lines if 'loss' in line]
    return times


def _compare(root: Path, folder: Path, names: List[str], num_images: int) -> Tables:
    """Run tools/compare.py on what was trained; read its tables."""
    pairs = {
        name: (folder / f'{name}.py', (folder / name / 'last_checkpoint').read_text())
        for name in names
    }
    judge = ['--judge', *pairs['segformer']] if 'segformer' in pairs else []
    run_tool(root, 'compare.py', *sum(pairs.values(), ()), '--num-images', num_images,
             '--steps', 1, 3, 25, '--metrics', 'SampleDiversity', 'DetailRatio',
             *judge, '--out', folder / 'compared')
    tables: Tables = {}
    for path in sorted((folder / 'compared').glob('*.csv')):
        rows = csv.DictReader(io.StringIO(path.read_text()))
        tables[path.stem] = [
            {key: _number(text) for key, text in row.items() if text} for row in rows
        ]
    pictures = sorted((folder / 'compared').glob('*.png'))
    return dict(
        tables,
        pictures=[dict(file=str(p.relative_to(folder.parent))) for p in pictures])


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def run_pipeline(results: PartResults, sizes: Sizes, root: Path) -> None:
    """Measure the images that pipelines make, and what the step eats."""
    recipes = {
        # Its pictures, and the part and size of the step that eats them.
        CITYSCAPES: (MEMORY, sizes.image),
        FACES: (STEP, sizes.step)
    }
    resizes = dict(recipe={}, opencv=dict(backend='cv2', interpolation='bilinear'))
    cores = len(os.sched_getaffinity(0))

    def measure(name: str, resize: dict) -> Tables:
        # The networks do nothing here.
        cfg = _read(root, name, TINY)
        for transform in innermost(cfg.train_dataloader.dataset).pipeline:
            if transform.get('backend') == 'pillow':
                transform.update(resize)
        bench = Benchmark(cfg, results.out / 'scratch' / name, batch_size=2,
                          file_size=sizes.files, repeats=sizes.repeats)
        bench.flops = dict(encode=0, network=0, training=0, decode=0)
        bench.measure_pipeline()
        counts = sorted({min(count, cores) for count in (1, 2, 4, 8, 16)})
        bench.measure_loader(counts if sizes.loader_seconds else [0],
                             sizes.loader_seconds)
        return {key: bench.tables[key] for key in ('pipeline', 'loader')}

    for name in recipes:
        for how, resize in resizes.items():
            results.measure(f'{name}, {how}', lambda n=name, r=resize: measure(n, r))
    results.measure('decoders', lambda: dict(decoders=list(
        measure_decoders(results.out / 'scratch' / FACES / 'files/img_dir',
                         sizes.repeats))))
    rows = list(_workers(results, recipes, cores))
    if rows:
        results.add('num_workers', seconds=0., tables=dict(num_workers=rows))


def _workers(results: PartResults, recipes: dict, cores: int) -> Iterator[Row]:
    """Tell how many workers each pipeline needs for the step to be fed."""
    rates = {row['case']: row['images_per_second_and_core']
             for row in results.rows('pipeline') if row['transform'] == 'all'}
    for name, (part, size) in recipes.items():
        for eater in PartResults(results.out, part).rows('steps'):
            # Latents come from a cache, and the plain step is nobody's.
            if eater.get('what', 'step') != 'step':
                continue
            for how in ('recipe', 'opencv'):
                rate = rates.get(f'{name}, {how}')
                if rate:
                    yield dict(
                        recipe=name,
                        size='x'.join(map(str, size)),
                        step=eater['case'],
                        eaten_per_second=eater['images_per_second'],
                        resize=how,
                        made_per_second_and_core=rate,
                        num_workers=-int(-eater['images_per_second'] // rate),
                        cores=cores)


def measure_decoders(folder: Path, repeats: int) -> Iterator[Row]:
    """Measure what decodes JPEG files, those of a GPU included.

    Args:
        folder (Path): With ``.jpg`` files.
        repeats (int): Rounds.

    Yields:
        Row: ``decoder`` and ``milliseconds`` per picture, or ``note`` where this
        host does not have it.
    """
    files = [path.read_bytes() for path in sorted(folder.glob('*.jpg'))]

    def by_torchvision(device: str) -> None:
        from torchvision.io import decode_jpeg
        data = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files]
        decode_jpeg(data, device=device)

    ways = {
        **{
            backend: lambda b=backend:
            [mmcv.imfrombytes(file, backend=b) for file in files]
            for backend in ('cv2', 'pillow', 'turbojpeg')
        },
        **{
            f'torchvision, {device}': lambda d=device: by_torchvision(d)
            for device in dict.fromkeys(('cpu', get_device()))
        }
    }
    for name, way in ways.items():
        try:
            way()
        except Exception as error:  # not installed, not built, no such device
            yield dict(decoder=name, note=f'{type(error).__name__}: {error}'[:100])
            continue
        times = alternate({name: way}, repeats)[name]
        yield dict(decoder=name, milliseconds=1000 * median(times) / len(files))


PARTS = (
    Part('tests', 'Tests on the device', 240, run_tests),
    Part(STEP, "The step at Stable Diffusion's size", 600, run_step),
    Part(RELEASED, "Beside the authors' released step", 180, run_released),
    Part('inference', 'Segmentation and synthesis', 420, run_inference),
    Part(MEMORY, 'Memory', 300, run_memory),
    Part('pipeline', 'The data pipeline', 180, run_pipeline),
    Part('camvid', 'CamVid, trained for as long', 1200, run_camvid))
