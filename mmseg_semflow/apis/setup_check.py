"""Checks before a long training: what is wrong, and how to mend it."""

import math
import os
import shutil
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Union

import mmcv
import numpy as np
import torch
from mmengine import fileio
from mmengine.config import ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.registry import METRICS, MODELS, init_default_scope
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS
from packaging.requirements import Requirement

from mmseg_semflow.datasets.layout import check_layout
from mmseg_semflow.datasets.unreadable import naming_damaged_files
from mmseg_semflow.engine.distributed import check_gpu_count
from mmseg_semflow.flow import PseudoMaskCodec, check_labels
from mmseg_semflow.models.checkpoint_guard import CheckpointGuard, weights_of
from mmseg_semflow.networks.pretrained import headers_alone
from mmseg_semflow.safe_loading import load_from_anywhere, weights_in

from .costs import estimate_training_memory
from .loading import ConfigType, innermost, read_config

PARTS = ('network', 'autoencoder')
# What CUDA and its libraries take for themselves, at most.
CUDA_ITSELF = 3e9


@dataclass
class Finding:
    """What a check found.

    Attributes:
        level (str): ``'ok'``, ``'warning'`` or ``'error'``.
        subject (str): What was checked.
        text (str): What was found and, if it is wrong, how to mend it.
    """

    level: str
    subject: str
    text: str

    def __str__(self) -> str:
        text = self.text.replace('\n', '\n' + 10 * ' ')
        return f'{self.level:9} {self.subject}: {text}'


class SetupCheck:
    """Check what a training needs, without starting it.

    No weights are read but those of the text encoder and of metrics, and no
    network is run but on tensors without data: it takes about a minute and
    little memory at any size.

    Args:
        config (str | Path | Config): Config of a training.
        work_dir (str | Path, optional): Where it will write its checkpoints.
            Defaults to None, as ``tools/train.py`` has it.
        num_gpus (int): Processes on this host. Defaults to 1.
        num_pairs (int): How many pairs of each dataset to read. Defaults
            to 8.

    Raises:
        ValueError: If the config is none of SemFlow, or a number is below 1.
    """

    def __init__(self,
                 config: ConfigType,
                 work_dir: Union[str, Path, None] = None,
                 num_gpus: int = 1,
                 num_pairs: int = 8) -> None:
        for name, value in dict(
                num_gpus=num_gpus, num_pairs=num_pairs).items():
            if value < 1:
                raise ValueError(f'{name} must be >= 1, but got {value}')
        self.cfg = read_config(config)
        self.num_gpus = num_gpus
        self.num_pairs = num_pairs
        self.work_dir = Path(
            work_dir or self.cfg.get('work_dir')
            or Path('work_dirs', Path(self.cfg.filename or 'config').stem))
        init_default_scope(self.cfg.get('default_scope', 'mmseg'))

    def run(self) -> Iterator[Finding]:
        """Run all checks, whatever any of them finds.

        Yields:
            Finding: At least one of every check that has something to look at.
        """
        checks = {
            'versions': self._check_versions,
            **{
                f'weights of the {name}': partial(self._check_weights, name)
                for name in PARTS
            },
            'load_from': self._check_load_from,
            **{
                f'{split} data': partial(self._check_data, f'{split}_dataloader')
                for split in ('train', 'val')
            },
            'metrics': self._check_metrics,
            'GPU memory': self._check_memory,
            'disk': self._check_disk,
        }
        for subject, check in checks.items():
            try:
                for level, text in check():
                    yield Finding(level, subject, text)
            except (ValueError, OSError) as error:
                yield Finding('error', subject, str(error))
            # Whatever a config can cause must not hide what comes after it.
            except Exception as error:
                yield Finding('error', subject,
                              f'{type(error).__name__}: {error}')

    def _check_versions(self) -> Iterator[tuple]:
        extras = ['']
        if self.cfg.get('default_scope') == 'mmagic':
            extras.append('mmagic')
        if self.cfg.model.semflow.network.get('lora'):
            extras.append('lora')
        if self._strategy == 'DeepSpeedStrategy':
            extras.append('deepspeed')
        # As mmcv or as mmcv-lite, so that setup.py requires neither.
        found = dict(mmcv=mmcv.__version__)
        try:
            requirements = requires('mmseg_semflow')
        except PackageNotFoundError:
            yield 'warning', (
                'mmseg_semflow is found as a folder but not installed, so what '
                'it requires is not known: run pip install -e .')
            requirements = []
        for requirement in map(Requirement, requirements):
            if requirement.marker and not any(
                    requirement.marker.evaluate(dict(extra=extra))
                    for extra in extras):
                continue
            try:
                found[requirement.name] = version(requirement.name)
            except PackageNotFoundError:
                yield 'error', (f'{requirement.name} is not installed: run pip '
                                f"install '{requirement.name}"
                                f"{requirement.specifier}'")
                continue
            if not requirement.specifier.contains(
                    found[requirement.name], prereleases=True):
                yield 'error', (
                    f'{requirement.name} is {found[requirement.name]}, but must '
                    f'be {requirement.specifier}: run pip install '
                    f"'{requirement.name}{requirement.specifier}'")
        yield 'ok', ', '.join(
            f'{name} {found[name]}' for name in (
                'torch', 'mmengine', 'mmcv', 'mmsegmentation', 'diffusers',
                'transformers') if name in found)

    def _check_weights(self, name: str) -> Iterator[tuple]:
        part = self.cfg.model.semflow[name]
        with headers_alone():
            MODELS.build(part).init_weights()
        sources = [part[k] for k in ('unet_weights', 'sd_folder') if part.get(k)]
        yield 'ok', ('fit, from ' + ' and '.join(sources) if sources else
                     'none, it starts from nothing')

    def _check_load_from(self) -> Iterator[tuple]:
        path = self.cfg.get('load_from')
        if not path:
            return
        semflow = self.cfg.model.semflow
        guard = CheckpointGuard({}, semflow.get('partial_load', ()))
        with headers_alone():
            checkpoint = load_from_anywhere(path)
            weights = weights_of(weights_in(checkpoint, path))
            for name in PARTS:
                prefix = f'{name}.'
                own = MODELS.build(semflow[name]).state_dict(prefix=prefix)
                given = {
                    key: value
                    for key, value in weights.items() if key.startswith(prefix)
                }
                try:
                    guard.check(given, own, '', 'SemFlowModel')
                except ValueError as error:
                    yield 'error', f'{path} does not fit the {name}: {error}'
                    continue
                kept = [key for key in own if given[key] is own[key]]
                if kept:
                    yield 'warning', (
                        f'{path} does not fit the {name} in {len(kept)} keys, for '
                        f'example {kept[0]}, which partial_load allows: they '
                        'start as if there were no load_from')
                else:
                    yield 'ok', f'{path} fits the {name}'

    def _check_data(self, key: str) -> Iterator[tuple]:
        if self.cfg.get(key) is None:
            return
        whole = self.cfg[key].dataset
        pairs = innermost(whole)
        if 'pipeline' not in pairs:
            yield 'warning', (f'{key}.dataset.type={pairs.type!r} has no pipeline '
                              'of its own: its pairs are not checked')
            return
        check_layout(pairs)
        loaded = DATASETS.build(
            dict(pairs, pipeline=[
                part for part in pairs.pipeline
                if part['type'].split('.')[-1].startswith('Load')
            ]))
        codec = PseudoMaskCodec(**self.cfg.model.semflow.codec)
        classes = loaded.metainfo.get('classes') or ()
        wrong = [*self._wrong_classes(classes, codec), *_missing(loaded)]
        indices = np.unique(
            np.linspace(0, len(loaded) - 1, self.num_pairs).round().astype(int))
        wrong += self._wrong_pairs(loaded, indices, codec)
        yield from (('error', text) for text in wrong)
        if wrong:
            return
        dataset = DATASETS.build(whole)
        samples = [dataset[int(index)] for index in indices]
        made_by = samples[0]['data_samples'].get('codec', codec.spec)
        if made_by != codec.spec:
            yield 'error', (
                f'the data are made by the codec {made_by}, but that of the '
                f'model is {codec.spec}: they must be the same')
            return
        shape = tuple(samples[0]['inputs'].shape)
        if key == 'train_dataloader' and whole is pairs:
            shape = self._check_sizes(samples, codec)
        yield 'ok', (f'{len(loaded)} pairs in {loaded.data_root}; '
                     f'{len(indices)} of them were read, inputs are {shape}')

    @staticmethod
    def _wrong_classes(classes: tuple, codec: PseudoMaskCodec) -> List[str]:
        if not classes or len(classes) == codec.num_classes:
            return []
        return [
            f'the dataset has {len(classes)} classes, but model.semflow.codec has '
            f'num_classes={codec.num_classes}: they must be the same'
        ]

    @staticmethod
    def _wrong_pairs(dataset: BaseSegDataset, indices: np.ndarray,
                     codec: PseudoMaskCodec) -> List[str]:
        wrong = []
        for index in indices:
            try:
                with naming_damaged_files():
                    results = dataset[int(index)]
                size, labels = results['img'].shape[:2], results['gt_seg_map']
                if labels.shape != size:
                    raise ValueError(
                        f'{results["seg_map_path"]} has the shape {labels.shape}, '
                        f'but {results["img_path"]} has {size} (height, width): '
                        'every pixel needs one label')
                check_labels(
                    torch.from_numpy(labels.astype(np.int64)),
                    codec.num_classes, codec.ignore_index,
                    results['seg_map_path'])
            except FileNotFoundError:
                continue  # named already
            except (OSError, ValueError) as error:
                wrong.append(f'{error}. Mend the file, or remove the pair')
        return wrong

    def _check_sizes(self, samples: List[dict],
                     codec: PseudoMaskCodec) -> tuple:
        preprocessor = MODELS.build(
            self.cfg.model.get('data_preprocessor')
            or dict(type='SemFlowDataPreProcessor'))
        preprocessor.serve(codec)
        with headers_alone():
            autoencoder = MODELS.build(self.cfg.model.semflow.autoencoder)
        for sample in samples:
            batch = preprocessor(pseudo_collate([sample]), True)
            autoencoder.check_size(batch['inputs'])
        return tuple(batch['inputs'].shape[1:])

    def _check_metrics(self) -> Iterator[tuple]:
        evaluator = self.cfg.get('val_evaluator') or {}
        metrics = list(evaluator.get('metrics') or [evaluator] * bool(evaluator))
        for hook in self.cfg.get('custom_hooks') or ():
            if hook['type'] == 'SynthesisEvalHook':
                metrics += hook['metrics']
        names = []
        for metric in metrics:
            missing = getattr(METRICS.build(metric), 'missing', None)
            names.append(metric['type'])
            if missing:
                names.pop()
                yield 'warning', missing
        if names:
            yield 'ok', ', '.join(names)

    @property
    def _strategy(self) -> Optional[str]:
        return self.cfg.get('strategy', {}).get('type')

    @cached_property
    def _estimate(self) -> Dict[str, int]:
        return estimate_training_memory(
            self.cfg, distributed=self.num_gpus > 1)

    def _check_memory(self) -> Iterator[tuple]:
        if torch.cuda.is_available():
            check_gpu_count(self.num_gpus)
        need = self._estimate['total']
        parts = ', '.join(f'{name.replace("_", " ")} {size / 1e9:.1f}'
                          for name, size in self._estimate.items()
                          if name != 'total' and size)
        text = (f'{need / 1e9:.1f} GB are needed on each GPU with '
                'train_dataloader.batch_size='
                f'{self.cfg.train_dataloader.batch_size} ({parts}), and 1 to 3 GB '
                'for CUDA itself')
        if self._strategy not in (None, 'DDPStrategy', 'SingleDeviceStrategy'):
            text += f'; {self._strategy} needs less, how much is not estimated'
        if not torch.cuda.is_available():
            yield 'ok', f'{text}; there is no GPU here to compare it with'
            return
        number, free = min(
            ((i, torch.cuda.mem_get_info(i)[0]) for i in range(self.num_gpus)),
            key=lambda gpu: gpu[1])
        text += f'; GPU {number} has {free / 1e9:.1f} GB free'
        if need + CUDA_ITSELF <= free:
            yield 'ok', text
            return
        sure = need > free and 'not estimated' not in text
        yield 'error' if sure else 'warning', (
            f'{text}. Stop what else runs there, lower train_dataloader.batch_size '
            'and raise optim_wrapper.accumulative_counts, set model.semflow.'
            'network.gradient_checkpointing=True, or shard the training '
            '(docs/training_at_scale.md)')

    def _check_disk(self) -> Iterator[tuple]:
        hook = self.cfg.get('default_hooks', {}).get('checkpoint')
        if hook is None:
            yield 'warning', ('no checkpoint will be written, since '
                              'default_hooks.checkpoint is not set')
            return
        folder = self.work_dir
        if hook.get('out_dir'):
            folder = Path(hook.out_dir, folder.name)
        there = next(
            path for path in (folder, *folder.absolute().parents)
            if path.is_dir())
        if not os.access(there, os.W_OK):
            raise ValueError(f'{there} is not writable, but {folder} is where '
                             'checkpoints go: choose another --work-dir')
        memory = self._estimate
        size = memory['parameters'] + memory['autoencoder'] + memory['ema']
        if self.cfg.model.semflow.network.get('lora'):
            # Of a network with an adapter, what is trained alone.
            copies = 2 if memory['ema'] else 1
            size -= copies * (memory['parameters'] - memory['gradients'])
        if hook.get('save_optimizer', True):
            size += memory['optimizer']
        count = _checkpoints(hook, self.cfg.train_cfg)
        # Those of a training that is resumed are there already.
        held = sum(path.stat().st_size for path in folder.glob('*.pth'))
        free = shutil.disk_usage(there).free
        text = (f'{count} checkpoints of {size / 1e9:.3g} GB are to lie in '
                f'{folder}, and {(free + held) / 1e9:.3g} GB are free for them')
        if count * size <= free + held:
            yield 'ok', text
            return
        yield 'error', (f'{text}. Make room, choose another --work-dir, or lower '
                        'default_hooks.checkpoint.max_keep_ckpts (now '
                        f'{hook.get("max_keep_ckpts", -1)}; -1 keeps all)')


def _missing(dataset: BaseSegDataset) -> List[str]:
    """Say which files of a dataset are not there, if any."""
    paths = (
        dataset.get_data_info(index)[key] for index in range(len(dataset))
        for key in ('img_path', 'seg_map_path'))
    missing = [
        path for path in paths if not fileio.exists(path, dataset.backend_args)
    ]
    if not missing:
        return []
    return [
        f'{len(missing)} files of the {len(dataset)} pairs in '
        f'{dataset.data_root} are missing, for example {missing[0]}: put them '
        'there, or take the pairs out of the list'
    ]


def _checkpoints(hook: ConfigDict, train_cfg: Any) -> int:
    """Tell how many checkpoints lie on the disk at once, at most."""
    length = train_cfg.get(
        'max_epochs' if hook.get('by_epoch', True) else 'max_iters') or 1
    interval, keep = hook.get('interval', -1), hook.get('max_keep_ckpts', -1)
    total = math.ceil(length / interval) if interval > 0 else 1
    best = hook.get('save_best') or []
    best = 1 if isinstance(best, str) else len(best)
    # An old one is removed only when the new one is complete.
    replaced = best > 0 or total > keep > 0
    return (min(total, keep) if keep > 0 else total) + best + replaced
