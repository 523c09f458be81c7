"""What the metrics of mask-to-image synthesis have in common."""

import logging
from abc import abstractmethod
from importlib import import_module
from pathlib import Path
from statistics import fmean
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from torch import nn
from torch.utils.data import DataLoader

from mmseg_semflow.safe_loading import load_from_local

# What makes the model give a result that it does not always give.
SETTINGS = dict(
    sample_label_maps='segment_steps=25, or another number of steps,',
    round_trip_img='round_trip=True',
    sample_spread='noise_gain=True',
    label_round_trip_img='round_trip=True')


class SynthesisMetric(BaseMetric):
    """Base of the metrics of :meth:`Synthesizer.evaluate`'s results.

    Every mask is measured alone and becomes one entry of ``results``; they
    are put together once all are gathered. So the figures depend neither on
    the batch size nor on the number of processes. The evaluators of mmengine
    and of mmagic both can use it.

    A package or a file of weights that is missing leaves the metric out, with
    one warning, and does not stop the evaluation.

    Args:
        **kwargs: Arguments of :class:`mmengine.evaluator.BaseMetric`.
    """

    # What mmagic's evaluator groups the metrics by.
    SAMPLER_MODE = 'normal'
    sample_model = 'orig'
    packages: Tuple[str, ...] = ()
    keys: Tuple[str, ...] = ('gt_img', 'samples')
    figures: Tuple[str, ...] = ()  # the keys of its results
    basis = 'no feature network'  # for the line of the protocol

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size: Optional[int] = None
        self.missing: Optional[str] = None
        for package in self.packages:
            try:
                import_module(package)
            except ImportError as error:
                self.leave_out(
                    f"{error}; run pip install 'mmseg_semflow[metrics]'")
                break

    @abstractmethod
    def measure(self, sample: dict) -> dict:
        """Measure one mask: numbers or features, no images."""

    def summarize(self, measures: List[dict]) -> Dict[str, float]:
        """Put the measures of all masks together; by default by the means."""
        return {
            key: fmean(measure[key] for measure in measures)
            for key in measures[0]
        }

    def leave_out(self, why: str) -> None:
        """Give no figures, and say why."""
        self.missing = f'{type(self).__name__} is left out: {why}'
        print_log(self.missing, 'current', logging.WARNING)

    def load_network(self, build: Callable[[dict], nn.Module], url: str,
                     weights: Optional[str],
                     download: bool) -> Optional[nn.Module]:
        """Build a feature network with its published weights.

        Args:
            build (Callable): Makes the network of the weights. What it
                samples is not taken from the random numbers of a training.
            url (str): Where the weights are published.
            weights (str, optional): Path of the file. None for the file of
                the published name in the folder of torch.hub.
            download (bool): Whether to download it to that folder, if it is
                not there.

        Returns:
            nn.Module | None: The network; None if something is missing.

        Raises:
            ValueError: If the file is unreadable or of another network.
        """
        if self.missing:
            return None
        path = Path(torch.hub.get_dir(), 'checkpoints', url.rpartition('/')[2])
        failure = ''
        if weights is not None:
            path = Path(weights).expanduser()
        elif download and not path.is_file():
            try:
                torch.hub.load_state_dict_from_url(
                    url, map_location='cpu', check_hash=True, weights_only=True)
            except (OSError, RuntimeError) as error:
                failure = f' and the download failed ({error})'
        if not path.is_file():
            self.leave_out(
                f'there is no file {path.absolute()}{failure}; download {url} '
                'and put it there, or name its place by weights=')
            return None
        self.basis = f'{self.basis} ({path.name})'
        state = load_from_local(str(path))
        try:
            with torch.random.fork_rng(devices=[]):
                return build(state)
        except (IndexError, KeyError, RuntimeError, TypeError) as error:
            raise ValueError(
                f'weights {path} must be those published as {url}, and all of '
                f'them, but: {error!s:.300}') from error

    def prepare(self, module: nn.Module, dataloader: DataLoader) -> None:
        """Note the number of masks, for mmagic's evaluator."""
        self.size = len(dataloader.dataset)

    def get_metric_sampler(self, module: nn.Module, dataloader: DataLoader,
                           metrics: Sequence[BaseMetric]) -> DataLoader:
        """Return the dataloader, for mmagic's evaluator."""
        return dataloader

    @torch.no_grad()
    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Measure a batch of results of :meth:`Synthesizer.evaluate`.

        Args:
            data_batch (Any): Not used.
            data_samples (Sequence[dict]): The results, one per mask; RGB, or
                BGR where they are mmagic's, which say so.

        Raises:
            ValueError: If one lacks what is needed or breaks a rule.
        """
        for sample in data_samples:
            if self.missing:
                self.results.append(self.missing)
                continue
            if sample.get('gt_channel_order') == 'BGR':
                sample = _to_rgb(sample)
            self._check(sample)
            self.results.append(
                dict(
                    size=tuple(sample['samples'].shape[-2:]),
                    num_samples=len(sample['samples']),
                    protocol=sample.get('protocol'),
                    measure=self.measure(sample)))

    def compute_metrics(self, results: list) -> Dict[str, float]:
        """Compute the figures of all masks and log how they came about."""
        missing = [result for result in results if isinstance(result, str)]
        if missing and not self.missing:  # only for another process
            print_log(missing[0], 'current', logging.WARNING)
        if missing or not results:
            return {}
        metrics = self.summarize([result['measure'] for result in results])
        sizes = sorted({result['size'] for result in results})
        counts = sorted({result['num_samples'] for result in results})
        protocols = sorted({result['protocol'] for result in results} - {None})
        print_log(
            f'{type(self).__name__}: {len(results)} masks and real images, '
            f'{_range(counts)} samples per mask, size '
            f'{_range([f"{height}x{width}" for height, width in sizes])}; ' +
            '; '.join([self.basis, *protocols]), 'current')
        return metrics

    def evaluate(self, size: Optional[int] = None) -> Dict[str, float]:
        """Compute the figures.

        Args:
            size (int, optional): Number of masks. Defaults to None, that of
                the dataloader given to :meth:`prepare`.

        Returns:
            Dict[str, float]: The figures; {} if the metric is left out.

        Raises:
            ValueError: If the number of masks is not known.
        """
        size = self.size if size is None else size
        if size is None:
            raise ValueError(
                'size must be given unless prepare() was called, but got None')
        return super().evaluate(size)

    def _check(self, sample: dict) -> None:
        name = type(self).__name__
        for key in self.keys:
            if sample.get(key) is None:
                hint = SETTINGS.get(key)
                raise ValueError(
                    f'{name} needs {key}' +
                    (f': set {hint} in the synthesis settings' if hint else '')
                    + f', but got {sorted(sample)}')
        image, samples = sample['gt_img'], sample['samples']
        if (samples.shape[1:] != image.shape or samples.dtype != torch.uint8
                or image.dtype != torch.uint8):
            raise ValueError(
                f'{name} needs gt_img of shape (3, H, W) and samples of shape '
                f'(K, 3, H, W), uint8, but got {tuple(image.shape)}, '
                f'{image.dtype} and {tuple(samples.shape)}, {samples.dtype}')


def _to_rgb(sample: dict) -> dict:
    """Reverse the channels of all images of one of mmagic's results."""
    return {
        key: value.flip(-3) if key.endswith('img') or key == 'samples' else value
        for key, value in sample.items()
    }


def _range(values: list) -> str:
    if values[0] == values[-1]:
        return str(values[0])
    return f'{values[0]} to {values[-1]}'
