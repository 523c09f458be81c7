"""Timing of the training step, of its parts, and of inference."""

import copy
import inspect
import math
import os.path as osp
import platform
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

import cv2
import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.config import Config, ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import LOOPS, init_default_scope
from mmengine.runner import IterBasedTrainLoop, Runner
from mmengine.utils import track_iter_progress
from mmseg.registry import DATASETS
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from mmseg_semflow.apis.tables import Row
from mmseg_semflow.datasets.cached_latents import pack_latents
from mmseg_semflow.flow import PseudoMaskCodec
from mmseg_semflow.models import SemFlowModel

from .costs import PeakMemory, Size, count_flops, innermost, training_size

Way = Callable[[], Any]
Times = Dict[str, List[float]]
CUDA = get_device() == 'cuda'


def now() -> float:
    """Read the clock, in seconds.

    On a GPU that of the wall, once the GPU has finished. On a CPU the time
    that this process spent computing, which other processes do not lengthen;
    with one thread it is the wall's time on an idle machine.
    """
    if CUDA:
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def seconds(way: Way) -> float:
    """Time one call."""
    start = now()
    way()
    return now() - start


def alternate(ways: Dict[str, Way], repeats: int) -> Times:
    """Time functions in alternation.

    Every other round goes backwards, so that a drift of the machine's speed
    serves none of them. Call each once before, to warm up.

    Args:
        ways (Dict[str, Callable]): The functions by name.
        repeats (int): Number of rounds.

    Returns:
        Dict[str, List[float]]: Seconds, one a round.
    """
    times: Times = {name: [] for name in ways}
    for i in track_iter_progress(list(range(repeats))):
        for name in list(ways)[::1 - 2 * (i % 2)]:
            times[name].append(seconds(ways[name]))
    return times


def ratio(times: Times, of: str, to: str, meaning: str) -> Row:
    """Divide the times of two ways, round by round.

    Args:
        times (Dict[str, List[float]]): See :func:`alternate`.
        of (str): Name of the dividend.
        to (str): Name of the divisor.
        meaning (str): What the ratio says.

    Returns:
        Row: The median of the ratios and their quartiles.
    """
    ratios = np.divide(times[of], times[to])
    lower, median, upper = np.percentile(ratios, (25, 50, 75)).tolist()
    return dict(
        what=meaning,
        ratio=median,
        lower_quartile=lower,
        upper_quartile=upper,
        rounds=len(ratios))


def peak_memory(way: Way) -> int:
    """Measure the bytes that a call needs at its worst moment.

    On a GPU all that is allocated, with weights and optimizer; on a CPU the
    tensors that the call makes, without what the kernels take inside.
    """
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
        way()
        return torch.cuda.max_memory_allocated()
    with PeakMemory() as counter:
        way()
    return counter.peak


def matmul_peak(dtype: torch.dtype, size: Optional[int] = None) -> float:
    """Measure the FLOP/s of the device, by the best of five large products.

    Args:
        dtype (torch.dtype): What to multiply in.
        size (int, optional): Side of the square matrices. Defaults to None,
            8192 on a GPU and 1024 on a CPU.
    """
    size = size or (8192 if CUDA else 1024)
    a, b = torch.randn(2, size, size, device=get_device(), dtype=dtype)
    torch.mm(a, b)
    return 2 * size**3 / min(seconds(lambda: torch.mm(a, b)) for _ in range(5))


def color_by_class(label_map: Tensor, codec: PseudoMaskCodec) -> Tensor:
    """Colour labels the plain way: class by class, in floats.

    Args:
        label_map (Tensor): int64 labels, shape (H, W).
        codec (PseudoMaskCodec): Gives the colours.

    Returns:
        Tensor: Pseudo mask in 8-bit levels, shape (H, W, 3).
    """
    pseudo_mask = torch.zeros(*label_map.shape, 3)
    for label, level in enumerate(codec.levels.cpu()):
        pseudo_mask[label_map == label] = level
    pseudo_mask[label_map == codec.ignore_index] = codec.void_level.cpu()
    return pseudo_mask


def plain_loss(model: SemFlowModel, images: Tensor,
               pseudo_masks: Tensor) -> Tensor:
    """Compute Eq. 10 the plain way: two encodes, each of the whole batch.

    Args:
        model (SemFlowModel): Gives the networks.
        images (Tensor): Images in [-1, 1], shape (B, 3, H, W).
        pseudo_masks (Tensor): Pseudo masks, shape (B, 3, H, W).

    Returns:
        Tensor: The loss, a scalar.
    """
    vae = getattr(model.autoencoder, 'vae', None)
    sliced = getattr(vae, 'use_slicing', False)
    if sliced:
        vae.disable_slicing()
    with torch.no_grad():
        z0 = model.autoencoder.encode(images).sample()
        z1 = model.autoencoder.encode(pseudo_masks).mean
    if sliced:
        vae.enable_slicing()
    t = torch.rand(len(z0), device=z0.device)
    s = t[:, None, None, None]
    pred = model.network((1 - s) * z0 + s * z1, t)
    return torch.nn.functional.mse_loss(pred, z1 - z0)


def write_pairs(folder: Path, size: Size, num_classes: int, suffix: str,
                count: int) -> None:
    """Write images and labels without meaning, in mmseg's layout.

    Smooth, with some grain: as a photograph they take 1 to 2 bytes a pixel as
    PNG.

    Args:
        folder (Path): Folder to write to.
        size (Tuple[int, int]): Height and width.
        num_classes (int): Number of classes.
        suffix (str): Of the images, ``'.png'`` or ``'.jpg'``.
        count (int): Number of pairs.
    """
    rng = np.random.default_rng(0)
    width_height = tuple(size)[::-1]
    coarse = [math.ceil(side / 32) for side in size]
    for part in ('img_dir', 'ann_dir'):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        image = cv2.resize(
            rng.uniform(0, 255, (*coarse, 3)),
            width_height,
            interpolation=cv2.INTER_CUBIC)
        grain = rng.normal(0, 2, image.shape)
        cv2.imwrite(
            str(folder / f'img_dir/{i}{suffix}'),
            np.clip(image + grain, 0, 255).astype(np.uint8))
        labels = cv2.resize(
            rng.integers(0, num_classes, coarse, np.uint8),
            width_height,
            interpolation=cv2.INTER_NEAREST)
        labels[:8] = 255
        cv2.imwrite(str(folder / f'ann_dir/{i}.png'), labels)


class _InMemory(Dataset):
    """What a pipeline made, again and again."""

    def __init__(self, items: list, metainfo: dict) -> None:
        self.items = items
        self.metainfo = metainfo

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict:
        return self.items[index]


@LOOPS.register_module()
class AlternatingLoop(IterBasedTrainLoop):
    """Train by the runner and by a bare loop of the same step, in turns."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.times: Times = dict(runner=[], bare=[])

    def run_iter(self, data_batch: dict) -> None:
        """Time one iteration of each."""
        runner_iter = super().run_iter
        ways = dict(
            runner=lambda: runner_iter(data_batch),
            bare=lambda: bare_step(self.runner.model, self.runner.optim_wrapper,
                                   data_batch))
        for name in list(ways)[::1 - 2 * (self._iter % 2)]:
            self.times[name].append(seconds(ways[name]))


def bare_step(model: nn.Module, wrapper: OptimWrapper,
              data_batch: dict) -> None:
    """Train one iteration without the toolbox: what a loop by hand does."""
    with wrapper.optim_context(model):
        data = model.data_preprocessor(data_batch, True)
        loss = sum(model(**data, mode='loss').values())
    loss.backward()
    if wrapper.clip_grad_kwargs:
        torch.nn.utils.clip_grad_norm_(
            [p for p in model.parameters() if p.requires_grad],
            **wrapper.clip_grad_kwargs)
    wrapper.optimizer.step()
    wrapper.optimizer.zero_grad()


class Benchmark:
    """Measure the training step, inference and the data pipeline of a config.

    The networks have random weights. Where the config's data are not there,
    files without meaning are written and read in their place.

    Args:
        cfg (Config): A config with the training pipeline of SemFlow.
        out (str | Path): Folder for what is written.
        size (Tuple[int, int], optional): Height and width of the images in
            place of the config's. Defaults to None.
        batch_size (int, optional): In place of the config's. Defaults to
            None.
        optimizer (str, optional): Type of an optimizer in place of the
            config's, such as ``'SGD'`` where the state of AdamW does not fit
            the memory. Defaults to None.
        file_size (Tuple[int, int], optional): Height and width of the files
            that are written. Defaults to None, twice those of the config.
        repeats (int): Rounds of every measurement. Defaults to 10.

    Attributes:
        tables (Dict[str, List[Row]]): What was measured.

    Raises:
        ValueError: If the training pipeline makes no pseudo masks, or the
            config is one of mmagic.
    """

    def __init__(self,
                 cfg: Config,
                 out: Path,
                 size: Optional[Size] = None,
                 batch_size: Optional[int] = None,
                 optimizer: Optional[str] = None,
                 file_size: Optional[Size] = None,
                 repeats: int = 10) -> None:
        self.cfg = cfg = copy.deepcopy(cfg)
        dataset = innermost(cfg.train_dataloader.dataset)
        cfg.train_dataloader.dataset = dataset
        self.repeats = repeats
        self.tables: Dict[str, List[Row]] = dict(
            steps=[], ratios=[], profile=[], operators=[], inference=[], pipeline=[])
        self._check_config()
        init_default_scope('mmseg')
        self.size = tuple(size or training_size(cfg))
        self.batch_size = batch_size or cfg.train_dataloader.batch_size
        self.data = self._find_data(dataset, Path(out), file_size)
        pipeline = list(dataset.pipeline)
        before = [t['type'] for t in pipeline].index('GeneratePseudoMask')
        if size is not None:
            cfg.model.get('data_preprocessor', {}).pop('size', None)
            pipeline.insert(
                before,
                dict(type='Resize', scale=self.size[::-1], keep_ratio=False))
            before += 1
        dataset.pipeline = pipeline[:before]
        self.dataset = DATASETS.build(dataset)
        self.finish = Compose(pipeline[before:])
        self.samples = [
            self.dataset[i % len(self.dataset)] for i in range(self.batch_size)
        ]
        if optimizer is not None:
            cfg.optim_wrapper.optimizer = dict(
                type=optimizer, lr=cfg.optim_wrapper.optimizer.lr)
        self.runner = self._build_runner(str(out))
        self.model = self.runner.model
        self.wrapper = self.runner.optim_wrapper
        self.flops = count_flops(cfg, self.size)
        with self.wrapper.optim_context(self.model):
            self.dtype = torch.get_autocast_dtype(
                get_device()) if torch.is_autocast_enabled(
                    get_device()) else torch.float32
        self.peak = matmul_peak(self.dtype)

    def _check_config(self) -> None:
        cfg = self.cfg
        semflow = cfg.model.get('semflow')
        pipeline = cfg.train_dataloader.dataset.get('pipeline', ())
        if semflow is None or 'GeneratePseudoMask' not in [
                t['type'] for t in pipeline
        ]:
            raise ValueError(
                f'{cfg.filename} has no train_pipeline with GeneratePseudoMask: '
                'there is no step of SemFlow to measure')
        if cfg.get('default_scope', 'mmseg') != 'mmseg':
            raise ValueError(
                f'{cfg.filename} is of {cfg.default_scope}: measure its twin '
                'for mmseg, whose training step is the same')
        for part in (semflow.network, semflow.autoencoder):
            part.pop('sd_folder', None)
            part.pop('unet_weights', None)

    def _find_data(self, dataset: ConfigDict, out: Path,
                   file_size: Optional[Size]) -> str:
        folder = osp.join(
            dataset.get('data_root') or '',
            dataset.get('data_prefix', {}).get('img_path', ''))
        if 'generate' in dataset or osp.isdir(folder):
            return folder
        suffix = str(
            dataset.get('img_suffix') or inspect.signature(
                DATASETS.get(dataset.type)).parameters['img_suffix'].default)
        suffix = '.jpg' if suffix.endswith('.jpg') else '.png'
        num_classes = self.cfg.model.semflow.codec.num_classes
        file_size = file_size or [2 * side for side in training_size(self.cfg)]
        write_pairs(out / 'files', file_size, num_classes, suffix, 4)
        pipeline = dataset.pipeline
        dataset.clear()
        dataset.update(
            type='BaseSegDataset',
            data_root=str(out / 'files'),
            data_prefix=dict(img_path='img_dir', seg_map_path='ann_dir'),
            img_suffix=suffix,
            seg_map_suffix='.png',
            metainfo=dict(
                classes=[str(i) for i in range(num_classes)],
                palette=[[i, i, i] for i in range(num_classes)]),
            pipeline=pipeline)
        return (f'{suffix} files of {file_size[0]}x{file_size[1]} without '
                f'meaning, since there is no {folder}')

    def _build_runner(self, out: str) -> Runner:
        cfg = self.cfg
        loader = DataLoader(
            _InMemory([self._finished(s) for s in self.samples],
                      self.dataset.metainfo),
            batch_size=self.batch_size,
            collate_fn=pseudo_collate)
        runner = Runner(
            model=cfg.model,
            work_dir=out,
            train_dataloader=loader,
            train_cfg=dict(type='AlternatingLoop', max_iters=self.repeats + 1),
            optim_wrapper=cfg.optim_wrapper,
            param_scheduler=cfg.get('param_scheduler'),
            # Without what needs other data or a bare loop would do as well.
            default_hooks=dict(
                {
                    k: v
                    for k, v in cfg.default_hooks.items() if k != 'visualization'
                },
                checkpoint=None),
            custom_hooks=[
                hook for hook in cfg.get('custom_hooks', ())
                if hook['type'] not in ('EMAHook', 'SynthesisEvalHook')
            ],
            default_scope='mmseg',
            randomness=dict(seed=0),
            log_level='WARNING',
            cfg=cfg,
            experiment_name=f'benchmark_{time.time_ns()}')
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        return runner

    def _finished(self, sample: dict) -> dict:
        return self.finish(dict(sample))

    def _preprocessed(self, items: List[dict]) -> dict:
        return self.model.data_preprocessor(pseudo_collate(items), True)

    def _inputs(self) -> dict:
        return self._preprocessed([self._finished(s) for s in self.samples])

    @torch.no_grad()
    def _cached(self, images: Tensor, masks: Tensor, samples: list) -> List[dict]:
        """Make what a :class:`CachedLatentsDataset` would return."""
        encode = self.model.semflow.autoencoder.encode
        of_images, of_masks = encode(images), encode(masks)
        identity = self.model.semflow.autoencoder.identity()
        posteriors = torch.stack([of_images.mean, of_images.std], 1)
        return [
            pack_latents(
                posterior.cpu(),
                mask_latent.cpu(),
                sample.gt_sem_seg.data[0].to(torch.uint8).cpu(),
                codec=sample.codec,
                autoencoder=identity) for posterior, mask_latent, sample in zip(
                    posteriors, of_masks.mean, samples, strict=True)
        ]

    def _loss(self, data: dict) -> Tensor:
        return self.model.parse_losses(self.model(**data, mode='loss'))[0]

    def _plain_loss(self, model: SemFlowModel) -> Tensor:
        images, pseudo_masks = [], []
        for sample in self.samples:
            image = torch.from_numpy(sample['img'].astype(np.float32))
            images.append(image.permute(2, 0, 1).flip(0) / 127.5 - 1)
            label_map = torch.from_numpy(sample['gt_seg_map'].astype(np.int64))
            levels = color_by_class(label_map, model.codec)
            amplitude = model.codec.amplitude
            levels += torch.empty_like(levels).uniform_(-amplitude, amplitude)
            pseudo_masks.append(levels.permute(2, 0, 1) / 127.5 - 1)
        device = get_device()
        return plain_loss(model, torch.stack(images).to(device),
                          torch.stack(pseudo_masks).to(device))

    @staticmethod
    def _train(model: nn.Module, wrapper: OptimWrapper, loss: Way) -> None:
        with wrapper.optim_context(model):
            value = loss()
        wrapper.update_params(value)

    def measure_runner(self) -> None:
        """Compare mmengine's runner, with its hooks, to a bare loop."""
        self.runner.train()
        times = {
            name: values[1:]
            for name, values in self.runner.train_loop.times.items()
        }
        self.tables['ratios'].append(
            ratio(times, 'runner', 'bare',
                  'time of an iteration: runner / bare loop'))

    def measure_steps(self) -> None:
        """Measure the training step in its forms."""
        semflow, wrapper = self.model.semflow, self.wrapper
        data = self._inputs()
        images = data['inputs']
        masks = torch.stack([s.gt_pseudo_mask.data for s in data['data_samples']])
        cached = self._cached(images, masks, data['data_samples'])
        plain, plain_wrapper = self.model, wrapper
        changed = self.cfg.model.semflow
        if changed.get('channels_last') or changed.get('compile_network'):
            plain = copy.deepcopy(self.model).to(
                memory_format=torch.contiguous_format)
            plain_wrapper = build_optim_wrapper(plain, self.cfg.optim_wrapper)

        def encode() -> None:
            with wrapper.optim_context(self.model):
                semflow.encode_pair(images, masks)

        ways = {
            'plain step': lambda: self._train(
                plain, plain_wrapper, lambda: self._plain_loss(plain.semflow)),
            'step': lambda: self._train(
                self.model, wrapper, lambda: self._loss(self._inputs())),
            'step from cached latents': lambda: self._train(
                self.model, wrapper, lambda: self._loss(
                    self._preprocessed(cached))),
            'encoding alone': encode
        }
        flops = dict.fromkeys(ways, self.flops['encode'])
        for name in list(ways)[:3]:
            flops[name] = self.flops['training'] + (
                0 if 'cached' in name else self.flops['encode'])
        self.model.train()
        # The first one makes the optimizer's state.
        ways['step']()
        memory = {name: peak_memory(way) for name, way in ways.items()}
        times = alternate(ways, self.repeats)
        self.tables['steps'] += [
            self._row(dict(what=name), times[name], self.batch_size,
                      memory[name], flops[name]) for name in ways
        ]
        self.tables['ratios'] += [
            ratio(times, 'plain step', 'step', 'rate: step / plain step'),
            ratio(times, 'plain step', 'step from cached latents',
                  'rate: step from cached latents / plain step'),
            ratio(times, 'encoding alone', 'step',
                  "the autoencoder's share of the step")
        ]

    def measure_profile(self, num_operators: int = 8) -> None:
        """Measure the parts of the step, and its costliest operators."""
        semflow, wrapper = self.model.semflow, self.wrapper
        self.model.train()
        passed: Dict[str, Any] = {}

        def prepare() -> None:
            data = passed['data'] = self._inputs()
            samples = data['data_samples']
            passed['masks'] = torch.stack(
                [s.gt_pseudo_mask.data for s in samples])
            passed['labels'] = torch.cat([s.gt_sem_seg.data for s in samples])

        def encode() -> None:
            with wrapper.optim_context(self.model):
                passed['latents'] = semflow.encode_pair(
                    passed['data']['inputs'], passed['masks'])

        def forward() -> None:
            with wrapper.optim_context(self.model):
                losses = semflow.loss_of_latents(*passed['latents'],
                                                 passed['labels'])
                passed['loss'] = self.model.parse_losses(losses)[0]

        def optimize() -> None:
            wrapper.step()
            wrapper.zero_grad()

        parts = {
            'pseudo masks, batch': prepare,
            'encoding': encode,
            'forward': forward,
            'backward': lambda: wrapper.backward(passed['loss']),
            'optimizer': optimize
        }
        times: Times = {name: [] for name in parts}
        for i in range(self.repeats + 1):
            for name, part in parts.items():
                # The first step makes the optimizer's state.
                times[name] += [seconds(part)][:i]
        with torch.profiler.profile() as profile:
            for part in parts.values():
                part()
        medians = {name: float(np.median(v)) for name, v in times.items()}
        total = sum(medians.values())
        self.tables['profile'] = [
            dict(part=name, seconds=value, share=value / total)
            for name, value in medians.items()
        ]
        key = 'self_device_time_total' if CUDA else 'self_cpu_time_total'
        events = {e.key: getattr(e, key) for e in profile.key_averages()}
        total = sum(events.values())
        self.tables['operators'] = [
            dict(operator=name, share=events[name] / total)
            for name in sorted(events, key=events.get)[:-num_operators - 1:-1]
        ]

    def measure_inference(self, num_steps: Sequence[int]) -> None:
        """Measure the segmentation of one image by numbers of steps."""
        image = self._inputs()['inputs'][:1]
        semflow = self.model.eval().semflow
        dtype = self.model.test_cfg.get('dtype')
        context = torch.autocast(
            get_device(),
            dtype=torch.bfloat16,
            enabled=dtype is not None)

        def segment(steps: int) -> None:
            with context:
                semflow.image_to_mask(image, steps)

        ways = {n: lambda n=n: segment(n) for n in num_steps}
        memory = {n: peak_memory(way) for n, way in ways.items()}
        times = alternate(ways, self.repeats)
        for n in ways:
            flops = self.flops['encode'] // 2 + n * self.flops[
                'network'] + self.flops['decode']
            self.tables['inference'].append(
                self._row(dict(num_steps=n), times[n], 1, memory[n], flops))

    def _row(self, name: Row, times: List[float], count: int,
             memory: int, flops: int) -> Row:
        median = float(np.median(times))
        return dict(
            **name,
            images_per_second=count / median,
            seconds=median,
            memory_GiB=memory / 2**30,
            GFLOP_per_image=flops / 1e9,
            share_of_peak=flops * count / median / self.peak)

    def measure_pipeline(self) -> None:
        """Measure the training pipeline on one core, transform by transform."""
        threads = torch.get_num_threads(), cv2.getNumThreads()
        torch.set_num_threads(1)
        cv2.setNumThreads(0)
        transforms = [
            *self.dataset.pipeline.transforms, *self.finish.transforms
        ]
        times: Times = {type(t).__name__: [] for t in transforms}
        for i in range(self.repeats + 1):
            results = self.dataset.get_data_info(i % len(self.dataset))
            spent = dict.fromkeys(times, 0.)
            for transform in transforms:
                start = time.process_time()
                results = transform(results)
                spent[type(transform).__name__] += time.process_time() - start
            for name, value in spent.items():
                times[name].append(value)
        rows = [
            dict(transform=name, milliseconds=1000 * float(np.median(values[1:])))
            for name, values in times.items()
        ]
        total = float(np.median(np.sum(list(times.values()), 0)[1:]))
        rows.append(
            dict(
                transform='all',
                milliseconds=1000 * total,
                images_per_second_and_core=1 / total))
        self.tables['pipeline'] = rows
        sample = self.samples[0]
        label_map = torch.from_numpy(sample['gt_seg_map'].astype(np.int64))
        codec = self.model.semflow.codec
        pair = {
            'by class': lambda: color_by_class(label_map, codec),
            'transform': lambda: self.finish.transforms[0](dict(sample))
        }
        for way in pair.values():
            way()
        self.tables['ratios'].append(
            ratio(
                alternate(pair, self.repeats), 'by class', 'transform',
                'rate: GeneratePseudoMask / by class, in floats'))
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])

    @property
    def conditions(self) -> Dict[str, Any]:
        """Dict[str, Any]: What the figures depend on."""
        return dict(
            config=self.cfg.filename,
            data=self.data,
            size='x'.join(map(str, self.size)),
            batch_size=self.batch_size,
            optimizer=self.cfg.optim_wrapper.optimizer.type,
            dtype=str(self.dtype).split('.')[1],
            device=torch.cuda.get_device_name()
            if CUDA else f'{platform.machine()} CPU',
            threads=torch.get_num_threads(),
            torch=torch.__version__,
            peak_GFLOP_per_second=round(self.peak / 1e9, 1),
            clock='wall' if CUDA else "the process' own seconds",
            weights='random',
            process=self.model.semflow.process.__class__.__name__,
            losses=', '.join(
                type(loss).__name__ for loss in self.model.semflow.losses))
