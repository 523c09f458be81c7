"""Measurements of the training step, of its parts, and of inference."""

import copy
import platform
import sys
import time
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.registry import DATASETS
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.utils.data import DataLoader, Dataset

from mmseg_semflow.apis.costs import Size, count_flops, training_size
from mmseg_semflow.apis.loading import innermost
from mmseg_semflow.apis.tables import Row
from mmseg_semflow.datasets.cached_latents import pack_latents
from mmseg_semflow.models import RectifiedFlow
from mmseg_semflow.synthesis import Synthesizer

from .baselines import (
    ReleasedStep,
    colour_by_class,
    colouring_end,
    labels_of,
    plain_batch,
    plain_loss,
    stock_pipeline,
)
from .stand_ins import find_data
from .timing import (
    CUDA,
    Times,
    Way,
    alternate,
    matmul_peak,
    median,
    one_thread,
    peak_memory,
    ratio,
    seconds,
)

# Who colours and perturbs: SemFlow's transforms, or the model on its device.
TRANSFORMS, MODEL = 'transforms', 'model'
COMPARED = 'transforms in the pipeline / colouring in the model'


class _InMemory(Dataset):
    """What a pipeline made, again and again."""

    def __init__(self, items: list, metainfo: dict) -> None:
        self.items = items
        self.metainfo = metainfo

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict:
        return self.items[index]


class _Endless(Dataset):
    """The pairs of a benchmark as its pipeline packs them, again and again."""

    def __init__(self, benchmark: 'Benchmark') -> None:
        self.pairs = benchmark.dataset
        self.pack = benchmark.ends[MODEL]

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> dict:
        return self.pack(self.pairs[index % len(self.pairs)])


class Benchmark:
    """Measure the training step, inference and the data pipeline of a config.

    The networks have random weights. Where the config's data are not there,
    files without meaning are written and read in their place. The pipeline is
    mmsegmentation's own, ending in ``PackSegInputs``, and the model colours:
    in one with SemFlow's transforms these are left out, and compared with.

    Args:
        cfg (Config): A config of SemFlow's segmentor with its training data.
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
        ValueError: If the config is none of SemFlow or one of mmagic, or its
            training pipeline does not end in ``PackSegInputs`` or
            ``PackSemFlowInputs``.
    """

    def __init__(self,
                 cfg: Config,
                 out: Union[str, Path],
                 size: Optional[Size] = None,
                 batch_size: Optional[int] = None,
                 optimizer: Optional[str] = None,
                 file_size: Optional[Size] = None,
                 repeats: int = 10) -> None:
        self.cfg = cfg = copy.deepcopy(cfg)
        self.repeats = repeats
        self.tables: Dict[str, List[Row]] = dict(
            steps=[], ratios=[], profile=[], operators=[], inference=[],
            synthesis=[], pipeline=[], loader=[])
        dataset = self._checked_dataset()
        *loading, pack = stock_pipeline(dataset.get('pipeline', ()))
        init_default_scope('mmseg')
        self.size = tuple(size or training_size(cfg))
        self.batch_size = batch_size or cfg.train_dataloader.batch_size
        self.data = find_data(cfg, Path(out), file_size)
        if size is not None:
            cfg.model.get('data_preprocessor', {}).pop('size', None)
            loading.append(
                dict(type='Resize', scale=self.size[::-1], keep_ratio=False))
        dataset.pipeline = loading
        self.dataset = DATASETS.build(dataset)
        self.ends = {
            MODEL: Compose([pack]),
            TRANSFORMS: Compose(colouring_end(pack, cfg.model.semflow.codec))
        }
        self.samples = self._load(self.batch_size)
        if optimizer is not None:
            cfg.optim_wrapper.optimizer = dict(
                type=optimizer, lr=cfg.optim_wrapper.optimizer.lr)
        self.runner = self._build_runner(str(out))
        self.model = self.runner.model
        self.wrapper = self.runner.optim_wrapper
        with self.wrapper.optim_context(self.model):
            self.dtype = torch.get_autocast_dtype(
                get_device()) if torch.is_autocast_enabled(
                    get_device()) else torch.float32

    @cached_property
    def flops(self) -> Dict[str, int]:
        """Dict[str, int]: See :func:`count_flops`."""
        return count_flops(self.cfg, self.size)

    @cached_property
    def peak(self) -> float:
        """float: FLOP/s of the device, see :func:`matmul_peak`."""
        return matmul_peak(self.dtype)

    def _checked_dataset(self) -> dict:
        """Take the pairs out of their wrappers, if the config fits."""
        cfg = self.cfg
        if 'semflow' not in cfg.model:
            raise ValueError(
                f'{cfg.filename} has no model.semflow: there is no step of '
                'SemFlow to measure')
        if cfg.get('default_scope', 'mmseg') != 'mmseg':
            raise ValueError(
                f'{cfg.filename} is of {cfg.default_scope}: measure its twin '
                'for mmseg, whose training step is the same')
        for part in (cfg.model.semflow.network, cfg.model.semflow.autoencoder):
            part.pop('sd_folder', None)
            part.pop('unet_weights', None)
        dataset = innermost(cfg.train_dataloader.dataset)
        cfg.train_dataloader.dataset = dataset
        return dataset

    def _build_runner(self, out: str) -> Runner:
        cfg = self.cfg
        loader = DataLoader(
            _InMemory(self._packed(), self.dataset.metainfo),
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

    def _load(self, count: int) -> List[dict]:
        """Read pairs by the pipeline, up to where they are packed."""
        return [self.dataset[i % len(self.dataset)] for i in range(count)]

    def _packed(self,
                samples: Optional[List[dict]] = None,
                end: str = MODEL) -> List[dict]:
        """Pack pairs, by default the batch that all steps share."""
        samples = self.samples if samples is None else samples
        return [self.ends[end](dict(sample)) for sample in samples]

    def _preprocessed(self, items: List[dict]) -> dict:
        return self.model.data_preprocessor(pseudo_collate(items), True)

    def _inputs(self) -> dict:
        return self._preprocessed(self._packed())

    def _masks(self, data: dict) -> Tensor:
        """Take the pseudo masks of a batch, or colour and perturb them."""
        samples = data['data_samples']
        if 'gt_pseudo_mask' in samples[0]:
            return torch.stack([s.gt_pseudo_mask.data for s in samples])
        return self.model.semflow.perturbed_masks(_label_maps(data))

    @torch.no_grad()
    def _cached(self, images: Tensor, masks: Tensor, samples: list) -> List[dict]:
        """Make what a :class:`CachedLatentsDataset` would return."""
        semflow = self.model.semflow
        of_images, of_masks = map(semflow.autoencoder.encode, (images, masks))
        identity = semflow.autoencoder.identity()
        posteriors = torch.stack([of_images.mean, of_images.std], 1)
        return [
            pack_latents(
                posterior.cpu(),
                mask_latent.cpu(),
                sample.gt_sem_seg.data[0].to(torch.uint8).cpu(),
                codec=semflow.codec.spec,
                autoencoder=identity) for posterior, mask_latent, sample in zip(
                    posteriors, of_masks.mean, samples, strict=True)
        ]

    def _loss(self, data: dict) -> Tensor:
        return self.model.parse_losses(self.model(**data, mode='loss'))[0]

    @cached_property
    def _batch_ahead(self) -> Tuple[Tensor, Tensor]:
        return plain_batch(self.samples, self.model.semflow.codec)

    def _plain_loss(self, semflow: nn.Module) -> Tensor:
        # Beside a GPU a loader's workers make it, on a CPU somebody has to.
        images, masks = self._batch_ahead if CUDA else plain_batch(
            self.samples, semflow.codec)
        return plain_loss(semflow, images.to(get_device()),
                          masks.to(get_device()))

    @staticmethod
    def _train(model: nn.Module, wrapper: OptimWrapper, loss: Way) -> None:
        with wrapper.optim_context(model):
            value = loss()
        wrapper.update_params(value)

    def _train_on(self, items: List[dict]) -> None:
        """Train a step on packed pairs."""
        self._train(self.model, self.wrapper,
                    lambda: self._loss(self._preprocessed(items)))

    def train_batch(self, count: int) -> None:
        """Train a step on a batch of so many images, some of them the same."""
        items = self._packed()
        self._train_on([items[i % len(items)] for i in range(count)])

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
        """Measure the training step in its forms.

        Raises:
            ValueError: If the process is not SemFlow's, whose plain step this
                is.
        """
        semflow, wrapper = self.model.semflow, self.wrapper
        if not isinstance(semflow.process, RectifiedFlow):
            raise ValueError(
                'the plain step is that of a RectifiedFlow: model.semflow.process '
                f'must be one, but got {type(semflow.process).__name__}')
        data = self._inputs()
        images, masks = data['inputs'], self._masks(data)
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
            'step': lambda: self._train_on(self._packed()),
            'step from cached latents': lambda: self._train_on(cached),
            'encoding alone': encode
        }
        times = self._time_steps(ways)
        self.tables['ratios'] += [
            ratio(times, 'plain step', 'step', 'rate: step / plain step'),
            ratio(times, 'plain step', 'step from cached latents',
                  'rate: step from cached latents / plain step'),
            ratio(times, 'encoding alone', 'step',
                  "the autoencoder's share of the step")
        ]

    def measure_colouring(self) -> None:
        """Compare SemFlow's transforms to the model, over the whole step.

        Loading is what a worker does for a batch, in one thread; the step
        begins with what the worker hands over.
        """
        loaded: Dict[str, List[dict]] = {}

        def load(end: str) -> None:
            with one_thread():
                loaded[end] = self._packed(self._load(self.batch_size), end)

        def train(end: str) -> None:
            self._train_on(loaded[end])

        ways = {(part, end): partial(way, end)
                for part, way in (('loading', load), ('step', train))
                for end in (TRANSFORMS, MODEL)}
        for way in ways.values():
            way()
        times = alternate(ways, self.repeats)
        for end in (TRANSFORMS, MODEL):
            times['loading and step', end] = np.add(times['loading', end],
                                                    times['step', end])
        self.tables['ratios'] += [
            ratio(times, (part, TRANSFORMS), (part, MODEL),
                  f'time of {part}: {COMPARED}')
            for part in ('loading', 'step', 'loading and step')
        ]

    def measure_released(self) -> None:
        """Compare the step to that of the authors' released code."""
        semflow = self.model.semflow
        released = ReleasedStep(semflow, self.cfg.optim_wrapper.optimizer)
        batch = plain_batch(self.samples, semflow.codec, perturbed=False)
        data = self._inputs()
        cached = self._cached(data['inputs'], self._masks(data),
                              data['data_samples'])
        ways = {
            'released step': lambda: released(*batch),
            'step': lambda: self._train_on(self._packed()),
            'step from cached latents': lambda: self._train_on(cached)
        }
        times = self._time_steps(ways)
        self.tables['ratios'] += [
            ratio(times, 'released step', name, f'rate: {name} / released step')
            for name in list(ways)[1:]
        ]

    def _time_steps(self, ways: Dict[str, Way]) -> Times:
        """Time steps, one of them named ``'step'``, and add their rows."""
        flops = {
            name: ('cached' not in name) * self.flops['encode'] +
            ('step' in name) * self.flops['training']
            for name in ways
        }
        self.model.train()
        # The first one makes the optimizer's state.
        ways['step']()
        memory = {name: peak_memory(way) for name, way in ways.items()}
        times = alternate(ways, self.repeats)
        self.tables['steps'] += [
            self._row(dict(what=name), times[name], self.batch_size,
                      memory[name], flops[name]) for name in ways
        ]
        return times

    def measure_profile(self, num_operators: int = 8) -> None:
        """Measure the parts of the step, and its costliest operators.

        Args:
            num_operators (int): How many of them. Defaults to 8.
        """
        semflow, wrapper = self.model.semflow, self.wrapper
        self.model.train()
        passed: Dict[str, Any] = {}

        def load() -> None:
            with one_thread():
                items = self._packed(self._load(self.batch_size))
            passed['data'] = self._preprocessed(items)

        def colour() -> None:
            passed['masks'] = self._masks(passed['data'])

        def encode() -> None:
            with wrapper.optim_context(self.model):
                passed['latents'] = semflow.encode_pair(
                    passed['data']['inputs'], passed['masks'])

        def forward() -> None:
            with wrapper.optim_context(self.model):
                losses = semflow.loss_of_latents(*passed['latents'],
                                                 _label_maps(passed['data']))
                passed['loss'] = self.model.parse_losses(losses)[0]

        def optimize() -> None:
            wrapper.step()
            wrapper.zero_grad()

        parts = {
            'loading, packing': load,
            'colouring, perturbation': colour,
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
        medians = {name: median(values) for name, values in times.items()}
        total = sum(medians.values())
        flops = dict(
            encoding=self.flops['encode'],
            forward=self.flops['network'],
            backward=self.flops['training'] - self.flops['network'])
        self.tables['profile'] = [
            dict(part=name, seconds=value, share=value / total)
            for name, value in medians.items()
        ]
        for row in self.tables['profile']:
            if row['part'] in flops:
                row['share_of_peak'] = self._share_of_peak(
                    flops[row['part']], row['seconds'])
        # On a GPU its kernels: operators have the time of theirs as well.
        events = {
            e.key: e.self_device_time_total if CUDA else e.self_cpu_time_total
            for e in profile.key_averages()
            if not CUDA or e.device_type == DeviceType.CUDA and not e.is_user_annotation
        }
        # A profiler that may not look at the GPU finds none.
        total = sum(events.values()) or 1
        self.tables['operators'] = [
            dict(operator=name, share=events[name] / total)
            for name in sorted(events, key=events.get)[:-num_operators - 1:-1]
        ]

    def measure_inference(self,
                          num_steps: Sequence[int],
                          batch_sizes: Sequence[int] = (1, )) -> None:
        """Measure the segmentation by numbers of steps.

        Args:
            num_steps (Sequence[int]): Numbers of solver steps.
            batch_sizes (Sequence[int]): Numbers of images at a time, at most the
                batch size. Defaults to single images.
        """
        images = self._inputs()['inputs']
        semflow = self.model.eval().semflow

        @torch.no_grad()
        def segment(steps: int, count: int) -> None:
            with torch.autocast(
                    get_device(),
                    dtype=torch.bfloat16,
                    enabled=self.model.test_cfg.get('dtype') is not None):
                semflow.image_to_mask(images[:count], steps)

        ways = {(n, count): partial(segment, n, count)
                for count in batch_sizes for n in num_steps}
        memory = {key: peak_memory(way) for key, way in ways.items()}
        times = alternate(ways, self.repeats)
        for n, count in ways:
            flops = self.flops['encode'] // 2 + n * self.flops[
                'network'] + self.flops['decode']
            self.tables['inference'].append(
                self._row(
                    dict(num_steps=n, batch_size=count), times[n, count], count,
                    memory[n, count], flops))

    def measure_synthesis(self, num_steps: int) -> None:
        """Compare synthesis of single images with that of a batch.

        Args:
            num_steps (int): Number of solver steps.
        """
        dtype = self.model.eval().test_cfg.get('dtype')
        requests = [(labels_of(sample), 0) for sample in self.samples]
        ways = {
            size: partial(
                Synthesizer(
                    self.model.semflow, num_steps, dtype=dtype,
                    batch_size=size).synthesize, requests)
            for size in (1, self.batch_size)
        }
        memory = {size: peak_memory(way) for size, way in ways.items()}
        times = alternate(ways, self.repeats)
        alone, together = (torch.stack(way()).int() for way in ways.values())
        differences = (alone - together).abs()
        for size in ways:
            of_batch = differences if size > 1 else torch.zeros(1)
            self.tables['synthesis'].append(
                dict(
                    batch_size=size,
                    num_steps=num_steps,
                    images_per_second=len(requests) / median(times[size]),
                    memory_GiB=memory[size] / 2**30,
                    values_that_differ=float((of_batch > 0).float().mean()),
                    levels_at_most=int(of_batch.max())))
        self.tables['ratios'].append(
            ratio(times, 1, self.batch_size,
                  f'rate of synthesis: batches of {self.batch_size} / alone'))

    def _row(self, name: Row, times: List[float], count: int,
             memory: int, flops: int) -> Row:
        time_of_one = median(times)
        return dict(
            **name,
            images_per_second=count / time_of_one,
            seconds=time_of_one,
            memory_GiB=memory / 2**30,
            GFLOP_per_image=flops / 1e9,
            share_of_peak=self._share_of_peak(flops, time_of_one, count))

    def _share_of_peak(self, flops: int, seconds: float,
                       count: Optional[int] = None) -> float:
        """Divide what images, by default a batch of them, need by the peak."""
        return flops * (count or self.batch_size) / seconds / self.peak

    def measure_pipeline(self) -> None:
        """Measure the training pipeline on one core, transform by transform.

        And what an image costs until its pseudo mask is on the device, which
        needs no network.
        """
        with one_thread():
            self._measure_transforms()
            sample = self.samples[0]
            codec = self.model.semflow.codec
            generate = self.ends[TRANSFORMS].transforms[0]
            ways = {
                'by class': lambda: colour_by_class(labels_of(sample), codec),
                'transform': lambda: generate(dict(sample)),
                **{end: partial(self._image_and_mask, end)
                   for end in (TRANSFORMS, MODEL)}
            }
            for way in ways.values():
                way()
            times = alternate(ways, self.repeats)
        self.tables['ratios'] += [
            ratio(times, 'by class', 'transform',
                  'rate: GeneratePseudoMask / by class, in floats'),
            ratio(times, TRANSFORMS, MODEL,
                  f'time of an image and its pseudo mask: {COMPARED}')
        ]

    def _image_and_mask(self, end: str) -> Tensor:
        return self._masks(
            self._preprocessed(self._packed(self._load(1), end)))

    def _measure_transforms(self) -> None:
        transforms = [
            *self.dataset.pipeline.transforms, *self.ends[MODEL].transforms
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
        total = median(np.sum(list(times.values()), 0)[1:])
        self.tables['pipeline'] = [
            *(dict(transform=name, milliseconds=1000 * median(values[1:]))
              for name, values in times.items()),
            dict(
                transform='all',
                milliseconds=1000 * total,
                images_per_second_and_core=1 / total)
        ]

    def measure_loader(self, num_workers: Sequence[int], seconds: float) -> None:
        """Measure the images per second that a loader hands over, by workers.

        By the wall's clock, on a CPU too.

        Args:
            num_workers (Sequence[int]): Numbers of workers.
            seconds (float): How long to look at each, after its first batch.
        """
        for workers in num_workers:
            loader = DataLoader(
                _Endless(self),
                batch_size=self.batch_size,
                num_workers=workers,
                collate_fn=pseudo_collate)
            batches = iter(loader)
            next(batches)
            start, count = time.perf_counter(), 0
            while not count or time.perf_counter() - start < seconds:
                count += len(next(batches)['inputs'])
            self.tables['loader'].append(
                dict(
                    num_workers=workers,
                    images_per_second=count / (time.perf_counter() - start)))

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
            process=type(self.model.semflow.process).__name__,
            losses=', '.join(
                type(loss).__name__ for loss in self.model.semflow.losses))


def _label_maps(data: dict) -> Tensor:
    """Stack the labels of a batch, shape (B, H, W)."""
    return torch.cat([s.gt_sem_seg.data for s in data['data_samples']])
