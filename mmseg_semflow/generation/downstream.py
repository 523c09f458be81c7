"""What a generated, labelled set of pictures is worth to a segmentor."""

import copy
import gc
import hashlib
import json
import math
import re
from functools import cached_property
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Dict, Iterator, List, Mapping, Sequence, Union

from matplotlib import pyplot as plt
from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import Runner, TestLoop
from mmseg.datasets import BaseSegDataset
from mmseg.evaluation import IoUMetric
from mmseg.registry import METRICS, TRANSFORMS

from mmseg_semflow.apis.loading import name_of
from mmseg_semflow.apis.tables import Row, keys_of, to_csv, to_markdown
from mmseg_semflow.datasets.layout import check_layout
from mmseg_semflow.engine.settings import flatten
from mmseg_semflow.files import read_json, write_bytes
from mmseg_semflow.synthesis.gallery import to_png

from .mixing import mixed_dataset, pipeline_for_generated, repeats_of_parts

ARMS = REAL, GENERATED, BOTH = 'real', 'generated', 'both'
# What it has to beat, and what needs no generated set.
PASTED, BOTH_PASTED = 'copy_paste', 'both_copy_paste'
SETTINGS, RESULT = 'settings.json', 'result.json'
_COMPARED = ('train_cfg', 'model', 'train_dataloader', 'test_dataloader',
             'optim_wrapper', 'param_scheduler', 'custom_hooks', 'randomness',
             'load_from')
# What changes nothing, or only where the files are: which they are is compared.
_IGNORED = re.compile(
    r'train_cfg\.(val_\w+|max_unreadable)$|test_dataloader\.(?!dataset\.)|'
    r'.*\.(data_root|backend_args|num_workers|persistent_workers|prefetch_factor|'
    r'pin_memory|serialize_data)\b')


@METRICS.register_module()
class ClassIoUMetric(IoUMetric):
    """mmsegmentation's ``IoUMetric`` that gives the IoU of every class.

    Its figures, in percent and unrounded, are ``mIoU`` and ``IoU.NAME`` of each
    class. A class that is neither in the labels nor predicted has NaN, and the
    mean leaves it out.
    """

    def compute_metrics(self, results: list) -> Dict[str, float]:
        """Compute the figures, and log mmsegmentation's table."""
        super().compute_metrics(results)
        intersection, union = (
            sum(area.double() for area in areas)
            for areas in list(zip(*results, strict=True))[:2])
        iou = 100 * intersection / union
        names = self.dataset_meta['classes']
        return dict(
            mIoU=float(iou.nanmean()),
            **{
                f'IoU.{name}': float(value)
                for name, value in zip(names, iou, strict=True)
            })


class Downstream:
    """Train a segmentor on real pictures, on generated ones, and on both.

    The arms differ in nothing but their training set: network, iterations,
    batch, transforms and test set are the config's, and runs of one seed begin with
    the same weights. In ``both`` the parts are repeated whole times so that generated
    pictures are about ``generated_share`` of what is seen.

    Every run has a folder, ``work_dir/ARM/seed_N``. One that is finished is not
    repeated, and one that was interrupted goes on from its newest checkpoint. What
    is tested are the last weights.

    Args:
        cfg (Config): Config of the segmentor, of mmsegmentation.
        generated (str | Path): Folder of the generated set. Its ``dataset.py``
            defines ``generated_dataset``, a dataset without a pipeline.
        work_dir (str | Path): Folder of the runs.
        arms (Sequence[str]): Of ``'real'``, ``'generated'``, ``'both'``, and
            ``'copy_paste'``, the real ones with :class:`PasteRareObjects`, and
            ``'both_copy_paste'``, these and the generated ones. Defaults to the
            first three.
        seeds (Sequence[int]): Seeds of the trainings. Defaults to 0, 1, 2.
        share (float): Share of the real pictures to train on, evenly spaced and
            the same in all runs, in (0, 1]. Defaults to 1.
        distort (bool): Whether to add mmsegmentation's ``PhotoMetricDistortion``
            to the transforms of all arms. Defaults to False.
        rare (Sequence[str]): Classes whose mean IoU is a figure of its own.
            Defaults to none.
        corruptions (Sequence[str]): What to test on besides, the test set by
            :class:`~mmseg_semflow.datasets.transforms.Corrupt`. Defaults to none.
        severity (int): Of the corruptions, 1 to 5. Defaults to 3.
        generated_share (float): Share of generated pictures in ``both`` and
            ``both_copy_paste``, in (0, 1), about: whole repetitions of one of the
            parts, which :attr:`repeats` tells. Defaults to 0.5.

    Attributes:
        num_real (int): Number of real pictures that are trained on.
        num_generated (int): Number of generated pictures.
        repeats (Tuple[int, int]): How often real and generated pictures are
            repeated in ``both``.

    Raises:
        FileNotFoundError: If there is no ``dataset.py``.
        ValueError: If an argument breaks its rule, the config does not train a
            plain dataset of mmsegmentation by iterations, or the generated set is
            empty or of other classes.
    """

    def __init__(self,
                 cfg: Config,
                 generated: Union[str, Path],
                 work_dir: Union[str, Path],
                 arms: Sequence[str] = ARMS,
                 seeds: Sequence[int] = (0, 1, 2),
                 share: float = 1.,
                 distort: bool = False,
                 rare: Sequence[str] = (),
                 corruptions: Sequence[str] = (),
                 severity: int = 3,
                 generated_share: float = 0.5) -> None:
        _check_choices(arms, seeds, share, generated_share)
        _check_config(cfg)
        init_default_scope(cfg.get('default_scope', 'mmseg'))
        self.cfg = cfg
        self.severity = severity
        # Before the long runs.
        self.corrupted = {
            name: _corrupted(cfg, name, severity) for name in corruptions
        }
        self.source = Path(generated)
        self.work_dir = Path(work_dir)
        self.arms, self.seeds = list(arms), list(seeds)
        self.share, self.distort, self.rare = share, distort, list(rare)
        self._real_cfg = _plain_dataset(cfg)
        self._real = _open(self._real_cfg)
        self._generated_cfg = _generated_dataset(self.source)
        self._generated = _open(self._generated_cfg)
        self._check_classes()
        self._shrink()
        self.num_generated = len(self._generated)
        self.repeats = repeats_of_parts(
            self.num_real, self.num_generated, generated_share)
        if distort:
            self._real_cfg.pipeline = _distorted(self._real_cfg.pipeline)
        self._generated_cfg.pipeline = pipeline_for_generated(self._real_cfg)

    def _check_classes(self) -> None:
        classes, found = (
            tuple(dataset.metainfo.get('classes') or ())
            for dataset in (self._real, self._generated))
        if classes != found:
            raise ValueError(
                f'{self.source / "dataset.py"} must have the classes of the training '
                f'set of {name_of(self.cfg)}, {classes}, but got {found}')
        doubled = _doubled(self.rare)
        for name in self.rare:
            if name not in classes or name in doubled:
                raise ValueError(
                    'rare must be different classes of the training set, of '
                    f'{", ".join(classes)}, but got {" ".join(self.rare)}')

    def _shrink(self) -> None:
        """Leave a share of the real pictures."""
        total = len(self._real)
        self.num_real = max(1, round(self.share * total))
        if self.share == 1:
            return
        if self._real_cfg.get('indices') is not None:
            raise ValueError(
                'a share needs all real pictures, but '
                'train_dataloader.dataset.indices of '
                f'{name_of(self.cfg)} chooses some already: leave out one of them')
        self._real_cfg.indices = [
            i * total // self.num_real for i in range(self.num_real)
        ]

    def dataset(self, arm: str) -> ConfigDict:
        """Give the config of an arm's training set."""
        parts = self._real_cfg, self._generated_cfg
        if arm in (PASTED, BOTH_PASTED):
            parts = _with_pasted_objects(self._real_cfg), self._generated_cfg
        if arm not in (BOTH, BOTH_PASTED):
            return copy.deepcopy(parts[arm == GENERATED])
        # The classes are compared above; palettes may differ.
        return copy.deepcopy(
            ConfigDict(
                mixed_dataset(
                    *parts, self.repeats,
                    [*self._real.metainfo, *self._generated.metainfo])))

    def folder(self, arm: str, seed: int) -> Path:
        """Tell the folder of a run."""
        return self.work_dir / arm / f'seed_{seed}'

    def config(self, arm: str, seed: int) -> Config:
        """Give the config of a run.

        Args:
            arm (str): Name of the arm.
            seed (int): The seed.

        Returns:
            Config: As mmengine's ``Runner`` takes it.
        """
        cfg = copy.deepcopy(self.cfg)
        cfg.train_dataloader.dataset = self.dataset(arm)
        cfg.test_evaluator = dict(type='ClassIoUMetric')
        cfg.randomness = dict(cfg.get('randomness') or {}, seed=seed)
        # mmengine finds the parts of an earlier runner by these names.
        cfg.work_dir = cfg.experiment_name = str(self.folder(arm, seed))
        if cfg.get('visualizer'):
            cfg.visualizer.name = cfg.work_dir
        cfg.launcher = 'none'
        return cfg

    @cached_property
    def _digests(self) -> Dict[str, str]:
        """Sum up names of real pictures, and all content of generated ones."""
        digests = {
            f'names of {name} pictures': _digest(
                Path(info['img_path']).name.encode() for info in _infos(dataset))
            for name, dataset in (
                (REAL, self._real),
                ('test', DATASETS.build(self.cfg.test_dataloader.dataset)))
        }
        digests['generated pictures'] = _digest(
            Path(info[key]).read_bytes()
            for info in _infos(self._generated)
            for key in ('img_path', 'seg_map_path'))
        return digests

    def settings(self, arm: str, seed: int) -> Dict[str, str]:
        """List what the figures of a run depend on, as text."""
        unused = {
            REAL: ('generated pictures', ),
            PASTED: ('generated pictures', ),
            GENERATED: ('share', 'names of real pictures')
        }.get(arm, ())
        cfg = self.config(arm, seed).to_dict()
        found = dict(
            share=repr(self.share),
            distort=repr(self.distort),
            corruptions=' '.join(self.corrupted) or 'none')
        if self.corrupted:
            found['severity'] = repr(self.severity)
        found |= self._digests
        for name in _COMPARED:
            found.update(flatten(cfg.get(name), name))
        return {
            key: value
            for key, value in found.items()
            if key not in unused and not _IGNORED.match(key)
        }

    def _check_settings(self, arm: str, seed: int) -> None:
        path = self.folder(arm, seed) / SETTINGS
        # One that was stopped before its first checkpoint begins anew.
        begun = self._begun(arm, seed) or (path.parent / RESULT).is_file()
        if not path.is_file() or not begun:
            return
        found, now = read_json(path), self.settings(arm, seed)
        for key in {**now, **found}:
            if found.get(key) != now.get(key):
                raise ValueError(
                    f'{path.parent} holds a run of other settings: {key} was '
                    f'{found.get(key, "none")} and is {now.get(key, "none")} now, '
                    'but all runs of a table must have the same. Put it back, or '
                    'choose another folder (--work-dir)')

    def runs(self) -> Iterator[Row]:
        """Train and test all arms with the first seed, then with the next.

        Yields:
            Row: Arm, seed, mIoU; with rare classes ``rare``, their mean; with
            corruptions ``corrupted``, the mean of ``mIoU.CORRUPTION``; and
            ``IoU.NAME`` of every class, in percent. What has no IoU is left out.

        Raises:
            ValueError: If a run's folder holds one of other settings.
        """
        planned = [(arm, seed) for seed in self.seeds for arm in self.arms]
        # Before the long runs.
        for arm, seed in planned:
            self._check_settings(arm, seed)
        for number, (arm, seed) in enumerate(planned, 1):
            print(f'\nrun {number} of {len(planned)}: {arm}, seed {seed}', end='')
            path = self.folder(arm, seed) / RESULT
            if path.is_file():
                print(', is done')
            else:
                self._run(arm, seed)
            yield self._row(arm, seed, read_json(path))

    def _begun(self, arm: str, seed: int) -> bool:
        return any(self.folder(arm, seed).glob('*.pth'))

    def _run(self, arm: str, seed: int) -> None:
        folder, cfg = self.folder(arm, seed), self.config(arm, seed)
        begun = self._begun(arm, seed)
        if begun:
            cfg.resume, cfg.load_from = True, None
        print(', goes on' if begun else '', flush=True)
        write_bytes(folder / SETTINGS, _as_json(self.settings(arm, seed)))
        figures = _train_and_test(cfg, self.corrupted)
        # Runners are full of cycles, which hold GPU memory and workers.
        gc.collect()
        write_bytes(folder / RESULT, _as_json({
            key: value if math.isfinite(value) else None
            for key, value in figures.items()
        }))

    def _row(self, arm: str, seed: int, figures: Dict[str, Any]) -> Row:
        known = {key: value for key, value in figures.items() if value is not None}
        row = dict(arm=arm, seed=seed, mIoU=known.pop('mIoU'))
        rare = [
            known[f'IoU.{name}'] for name in self.rare if f'IoU.{name}' in known
        ]
        if rare:
            row['rare'] = mean(rare)
        if self.corrupted:
            row['corrupted'] = mean(known[f'mIoU.{n}'] for n in self.corrupted)
        return {**row, **known}

    @property
    def protocol(self) -> str:
        """str: What every figure of the table depends on."""
        real, generated = self.repeats
        text = (f'{name_of(self.cfg)}: {self.cfg.train_cfg.max_iters} iterations of '
                f'{self.cfg.train_dataloader.batch_size} pictures in each run; '
                f'{self.num_real} of {len(self._real)} real pictures, '
                f'{self.num_generated} generated ones of {self.source}; both: '
                f'the real ones {real} times and the generated ones {generated} '
                'times')
        if self.distort:
            text += '; with PhotoMetricDistortion'
        text += (". IoU in %, of the last weights on the config's test set. "
                 'Differences are to real with the same seed; difference_se is the '
                 'standard error of their mean over the seeds.')
        if self.rare:
            text += f' rare: the mean of {", ".join(self.rare)}.'
        if self.corrupted:
            text += (f' corrupted: the mean of {", ".join(self.corrupted)}, of '
                     f'severity {self.severity}.')
        return text


def _check_choices(arms: Sequence[str], seeds: Sequence[int],
                   share: float, generated_share: float) -> None:
    known = *ARMS, PASTED, BOTH_PASTED
    if not arms or set(arms) - set(known) or _doubled(arms):
        raise ValueError(f'arms must be different ones of {", ".join(known)}, but got '
                         f'{" ".join(arms) or "none"}')
    if not seeds or min(seeds) < 0 or _doubled(seeds):
        raise ValueError('seeds must be different numbers of 0 or more, but got '
                         f'{" ".join(map(str, seeds)) or "none"}')
    if not 0 < share <= 1:
        raise ValueError(f'share must be in (0, 1], but got {share}')
    if not 0 < generated_share < 1:
        raise ValueError(
            f'generated_share must be in (0, 1), but got {generated_share}')


def _doubled(values: Sequence) -> set:
    return {value for value in values if list(values).count(value) > 1}


def _check_config(cfg: Config) -> None:
    if 'test_dataloader' not in cfg:
        raise ValueError(f'{name_of(cfg)} has no test_dataloader')
    if cfg.get('runner_type', 'Runner') != 'Runner':
        raise ValueError(f"{name_of(cfg)} must have runner_type='Runner', but got "
                         f'{cfg.runner_type!r}')
    if 'max_iters' not in cfg.get('train_cfg', {}):
        raise ValueError(
            f'{name_of(cfg)} must have train_cfg.max_iters, since all arms train for '
            f'equal iterations, but got train_cfg={cfg.get("train_cfg")}')


def _plain_dataset(cfg: Config) -> ConfigDict:
    """Copy the config of the training set, which must wrap no other."""
    dataset = copy.deepcopy(cfg.get('train_dataloader', {}).get('dataset') or {})
    name = kind = dataset.get('type')
    if isinstance(kind, str):
        with DATASETS.switch_scope_and_registry('mmseg') as registry:
            kind = registry.get(kind)
    plain = isinstance(kind, type) and issubclass(kind, BaseSegDataset)
    if not plain or 'pipeline' not in dataset:
        raise ValueError(
            f'train_dataloader.dataset of {name_of(cfg)} must be a plain dataset of '
            f'mmsegmentation with a pipeline, but its type is {name!r} and its keys '
            f'are {", ".join(dataset)}')
    return dataset


def _generated_dataset(folder: Path) -> ConfigDict:
    path = folder / 'dataset.py'
    if not path.is_file():
        raise FileNotFoundError(
            f'there is no {path}: {folder} must be a generated set, whose '
            'dataset.py defines generated_dataset')
    dataset = Config.fromfile(path).get('generated_dataset')
    if dataset is None:
        raise ValueError(f'{path} must define generated_dataset, but does not')
    # Where it was generated it need not be any more.
    dataset.data_root = str(folder.resolve())
    return dataset


def _open(dataset: dict) -> BaseSegDataset:
    """List the pairs of a dataset; there must be at least one."""
    opened = DATASETS.build(
        dict(dataset, pipeline=[], lazy_init=True, serialize_data=False))
    check_layout(opened)
    opened.full_init()
    return opened


def _infos(dataset: BaseSegDataset) -> Iterator[dict]:
    return (dataset.get_data_info(i) for i in range(len(dataset)))


def _with_pasted_objects(dataset: dict) -> ConfigDict:
    """Paste objects of other pictures, as they are loaded and not yet resized."""
    kinds = [str(transform['type']).split('.')[-1] for transform in dataset['pipeline']]
    if not kinds[:2] == ['LoadImageFromFile', 'LoadAnnotations']:
        raise ValueError(
            f'the arms {PASTED} and {BOTH_PASTED} need a '
            'train_dataloader.dataset.pipeline that begins with LoadImageFromFile, '
            f'LoadAnnotations, but got {", ".join(kinds)}')
    pipeline = copy.deepcopy(dataset['pipeline'])
    return ConfigDict(
        type='MultiImageMixDataset',
        dataset=dict(dataset, pipeline=pipeline[:2]),
        pipeline=[dict(type='PasteRareObjects'), *pipeline[2:]])


def _distorted(pipeline: Sequence[dict]) -> List[dict]:
    """Insert ``PhotoMetricDistortion`` before ``PackSegInputs``."""
    kinds = [str(transform['type']).split('.')[-1] for transform in pipeline]
    if 'PhotoMetricDistortion' in kinds or kinds.count('PackSegInputs') != 1:
        raise ValueError(
            'distort needs a train_dataloader.dataset.pipeline with one '
            'PackSegInputs and no PhotoMetricDistortion yet, but got '
            f'{", ".join(kinds)}')
    place = kinds.index('PackSegInputs')
    return [
        *pipeline[:place], ConfigDict(type='PhotoMetricDistortion'),
        *pipeline[place:]
    ]


def _digest(parts: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:16]


def _as_json(value: dict) -> bytes:
    return json.dumps(value, indent=2).encode()


def _corrupted(cfg: Config, corruption: str, severity: int) -> ConfigDict:
    """Give the config of the test loader with corrupted pictures."""
    loader = copy.deepcopy(cfg.test_dataloader)
    pipeline = loader.dataset.get('pipeline') or []
    if not pipeline or not str(pipeline[0]['type']).endswith('LoadImageFromFile'):
        raise ValueError(
            'corruptions need a test_dataloader.dataset.pipeline that begins with '
            f'LoadImageFromFile, but got {pipeline[:1]}')
    corrupt = ConfigDict(type='Corrupt', corruption=corruption, severity=severity)
    TRANSFORMS.build(corrupt)
    pipeline.insert(1, corrupt)
    return loader


def _train_and_test(cfg: Config, corrupted: Dict[str, ConfigDict]) -> Dict[str, float]:
    runner = Runner.from_cfg(cfg)
    runner.train()
    figures = runner.test()
    for name, loader in corrupted.items():
        print(f'with {name}', flush=True)
        found = TestLoop(runner, loader, cfg.test_evaluator).run()
        figures[f'mIoU.{name}'] = found['mIoU']
    return figures


def paired_difference(values: Mapping[int, float],
                      real: Mapping[int, float]) -> Row:
    r"""Compare a figure of an arm with that of ``real``, seed by seed.

    With the differences :math:`d_s` of the n seeds that both have, the standard
    error of their mean is

    .. math:: \sqrt{\sum_s (d_s - \bar d)^2 / (n (n - 1))}

    Args:
        values (Mapping[int, float]): The arm's figure by seed.
        real (Mapping[int, float]): That of ``real``.

    Returns:
        Row: ``difference`` (mean), with two seeds or more ``difference_se``,
        ``difference_min`` and ``difference_max``; empty without common seeds.
    """
    found = [values[seed] - real[seed] for seed in values if seed in real]
    if not found:
        return {}
    row = dict(difference=mean(found))
    if len(found) > 1:
        row['difference_se'] = stdev(found) / math.sqrt(len(found))
    return dict(row, difference_min=min(found), difference_max=max(found))


def summarize(runs: Sequence[Row]) -> List[Row]:
    """Sum up the figures of all seeds.

    Args:
        runs (Sequence[Row]): See :meth:`Downstream.runs`.

    Returns:
        List[Row]: For each figure and arm the number of seeds, ``mean``, ``min``
        and ``max`` over them, and the :func:`paired_difference` to ``real``.
    """
    rows = []
    for figure in _figures(runs):
        by_arm: Dict[str, Dict[int, float]] = {}
        for run in runs:
            if figure in run:
                by_arm.setdefault(run['arm'], {})[run['seed']] = run[figure]
        for arm, values in by_arm.items():
            found = list(values.values())
            row = dict(
                figure=figure,
                arm=arm,
                seeds=len(found),
                mean=mean(found),
                min=min(found),
                max=max(found))
            if arm != REAL:
                row |= paired_difference(values, by_arm.get(REAL, {}))
            rows.append(row)
    return rows


def _figures(runs: Sequence[Row]) -> List[str]:
    return [key for key in keys_of(runs) if key not in ('arm', 'seed')]


def to_plot(runs: Sequence[Row]) -> bytes:
    """Plot every figure of every run as a dot, and their means, as PNG."""
    figures = _figures(runs)
    arms = list(dict.fromkeys(run['arm'] for run in runs))
    plot, axis = plt.subplots(figsize=(2.5 + 0.8 * len(figures), 4))
    for number, arm in enumerate(arms):
        shift, colour = 0.22 * (number - (len(arms) - 1) / 2), f'C{number}'
        for place, figure in enumerate(figures):
            found = [run[figure] for run in runs
                     if run['arm'] == arm and figure in run]
            if not found:
                continue
            x = place + shift
            axis.plot([x] * len(found), found, '.', color=colour, alpha=0.7)
            axis.hlines(mean(found), x - 0.09, x + 0.09, color=colour)
        axis.plot([], [], '.-', color=colour, label=arm)
    axis.set_xticks(
        range(len(figures)),
        [figure.removeprefix('IoU.') for figure in figures],
        rotation=45,
        ha='right')
    axis.set(ylabel='IoU, %')
    axis.grid(alpha=0.3, axis='y')
    axis.legend(frameon=False, loc='upper left', bbox_to_anchor=(1, 1))
    plot.tight_layout()
    return to_png(plot)


def write_downstream(runs: Sequence[Row], protocol: str,
                     out: Union[str, Path]) -> str:
    """Write the figures to a folder.

    Args:
        runs (Sequence[Row]): See :meth:`Downstream.runs`, at least one.
        protocol (str): What stands below the table.
        out (str | Path): The folder: ``downstream.md``, ``downstream.csv``,
            ``downstream.png`` and ``runs.csv``, a row for every run.

    Returns:
        str: The Markdown.
    """
    out, rows = Path(out), summarize(runs)
    text = f'{to_markdown(rows)}\n{protocol}\n'
    write_bytes(out / 'runs.csv', to_csv(runs).encode())
    write_bytes(out / 'downstream.csv', to_csv(rows).encode())
    write_bytes(out / 'downstream.png', to_plot(runs))
    write_bytes(out / 'downstream.md', text.encode())
    return text
