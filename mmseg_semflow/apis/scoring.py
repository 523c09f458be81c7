"""Evaluation of one model, picture by picture."""

import time
from itertools import combinations
from typing import Dict, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from mmengine.evaluator import Evaluator
from mmengine.model import BaseModel
from mmengine.registry import DATASETS
from mmengine.utils import track_iter_progress
from torch import Tensor

from mmseg_semflow.models import SemFlowModel
from mmseg_semflow.pixels import paint, resize_labels
from mmseg_semflow.synthesis import Synthesizer, image_and_labels

from .loading import name_of
from .tables import Row


class Evaluation:
    """Evaluate a model on the test data of its config.

    Images and masks pass one by one, so that the time of one is that of one
    alone.

    Args:
        model (BaseModel): A segmentor of mmsegmentation or a generator of
            mmagic, with its config as ``cfg``.
        num_images (int, optional): Number of test images, from the first.
            Defaults to None, all.

    Attributes:
        truth (Dict[str, List[np.ndarray]]): :attr:`NUM_PICTURES` of the test
            images, evenly spaced, and their painted labels, by ``'image'``
            and ``'mask'``, RGB, uint8, each of shape (H, W, 3).
        pictures (List[np.ndarray]): What the latest evaluation made of them:
            painted predictions, or the first of the samples.

    Raises:
        ValueError: If the config has no test data, or ``num_images`` is below
            1.
    """

    NUM_PICTURES = 4

    def __init__(self,
                 model: BaseModel,
                 num_images: Optional[int] = None) -> None:
        cfg = model.cfg
        if 'test_dataloader' not in cfg:
            raise ValueError(f'{name_of(cfg)} has no test_dataloader')
        if num_images is not None and num_images < 1:
            raise ValueError(f'num_images must be >= 1, but got {num_images}')
        self.model = model
        self.dataset = DATASETS.build(cfg.test_dataloader.dataset)
        self.num_images = min(num_images or len(self.dataset),
                              len(self.dataset))
        self._calls = 0
        count = min(self.NUM_PICTURES, self.num_images)
        self._shown = [i * self.num_images // count for i in range(count)]
        self.pictures: List[np.ndarray] = []

    @property
    def truth(self) -> Dict[str, List[np.ndarray]]:
        """Dict[str, List[np.ndarray]]: See above."""
        pairs = [image_and_labels(self.dataset[i]) for i in self._shown]
        return dict(
            image=[_pixels(image) for image, _ in pairs],
            mask=[self._paint(labels) for _, labels in pairs])

    @torch.no_grad()
    def segmentation(self,
                     num_steps: Optional[int] = None,
                     solver: Optional[str] = None,
                     seeds: Sequence[int] = (0, )) -> Row:
        """Evaluate a segmentor.

        Args:
            num_steps (int, optional): Steps of the solver. Defaults to None,
                those of the ``test_cfg``.
            solver (str, optional): Its name. Defaults to None, that of the
                ``test_cfg``.
            seeds (Sequence[int]): Seeds of torch and of a process that
                samples noise. Defaults to one, 0.

        Returns:
            Row: The metrics of the config, means over the seeds; with several
            seeds also ``mIoU_min``, ``mIoU_max`` and ``pixels_differ``, the
            percentage of pixels that two seeds label differently;
            ``segmentation_nfe`` and ``segmentation_seconds`` per image.
        """
        model, cfg = self.model, self.model.test_cfg
        model.test_cfg = type(cfg)(cfg)
        model.test_cfg.update({
            key: value
            for key, value in dict(num_steps=num_steps, solver=solver).items()
            if value is not None
        })
        evaluators = [self.evaluator(model.cfg.test_evaluator) for _ in seeds]
        seconds, differ, self._calls, self.pictures = 0., [], 0, []
        handle = self._network().register_forward_hook(self._count)
        try:
            model.test_step(batch_of(self.dataset[0]))  # not timed
            self._calls = 0
            with torch.random.fork_rng():
                for i, item in self._items():
                    label_maps = []
                    for seed, evaluator in zip(seeds, evaluators, strict=True):
                        model.test_cfg['seed'] = seed
                        torch.manual_seed(seed)
                        start = self._clock()
                        results = model.test_step(batch_of(item))
                        seconds += self._clock() - start
                        evaluator.process(data_samples=results, data_batch=None)
                        label_maps.append(results[0].pred_sem_seg.data)
                    if i in self._shown:
                        self.pictures.append(self._paint(label_maps[0][0]))
                    differ += [(one != other).double().mean()
                               for one, other in combinations(label_maps, 2)]
        finally:
            handle.remove()
            model.test_cfg = cfg
        found = [
            _numbers(evaluator.evaluate(self.num_images))
            for evaluator in evaluators
        ]
        row = {
            key: sum(one[key] for one in found) / len(found)
            for key in found[0]
        }
        if len(seeds) > 1:
            miou = [one['mIoU'] for one in found]
            row.update(mIoU_min=min(miou), mIoU_max=max(miou))
            row['pixels_differ'] = 100 * float(torch.stack(differ).mean())
        count = self.num_images * len(seeds)
        return dict(
            **row,
            segmentation_nfe=self._calls / count,
            segmentation_seconds=seconds / count)

    @torch.no_grad()
    def synthesis(self, synthesizer: Synthesizer,
                  metrics: Sequence[dict]) -> Row:
        """Evaluate the images that are synthesised for masks.

        Args:
            synthesizer (Synthesizer): How the model synthesises them.
            metrics (Sequence[dict]): Configs of the metrics.

        Returns:
            Row: The metrics; ``synthesis_nfe`` and ``synthesis_seconds`` per
            image, which are those of the first sample of each mask, alone.
        """
        evaluator = self.evaluator(metrics)
        seconds, calls, self.pictures = 0., 0, []
        handle = self._network().register_forward_hook(self._count)
        try:
            first = image_and_labels(self.dataset[0])[1]
            synthesizer.synthesize([(first, 0)])  # not timed
            for i, item in self._items():
                image, labels = image_and_labels(item)
                labels = resize_labels(
                    labels, synthesizer.size or tuple(image.shape[-2:]))
                self._calls = 0
                start = self._clock()
                samples = synthesizer.synthesize([(labels, 0)])
                seconds += self._clock() - start
                calls += self._calls
                samples += synthesizer.synthesize(
                    [(labels, n) for n in range(1, synthesizer.num_samples)])
                result = synthesizer.evaluate(
                    image, labels, torch.stack(samples))
                self._keep(i, result['fake_img'])
                evaluator.process(data_samples=[result])
        finally:
            handle.remove()
        return dict(
            **_numbers(evaluator.evaluate(self.num_images)),
            synthesis_nfe=calls / self.num_images,
            synthesis_seconds=seconds / self.num_images)

    @torch.no_grad()
    def generation(self, metrics: Sequence[dict]) -> Row:
        """Evaluate what a generator of mmagic returns for the test data.

        Args:
            metrics (Sequence[dict]): Configs of the metrics.

        Returns:
            Row: The metrics; ``synthesis_nfe`` and ``synthesis_seconds`` per
            image.
        """
        evaluator = self.evaluator(metrics)
        self.model.test_step(batch_of(self.dataset[0]))  # not timed
        seconds, count, self.pictures = 0., 0, []
        for i, item in self._items():
            start = self._clock()
            results = self.model.test_step(batch_of(item))
            seconds += self._clock() - start
            count += sum(len(result.samples) for result in results)
            self._keep(i, results[0].fake_img.flip(0))  # BGR
            evaluator.process(data_samples=results)
        return dict(
            **_numbers(evaluator.evaluate(self.num_images)),
            synthesis_nfe=1.,
            synthesis_seconds=seconds / count)

    def evaluator(self, cfg: Union[dict, Sequence[dict]]) -> Evaluator:
        """Build metrics that know the classes of the data."""
        evaluator = Evaluator(cfg)
        evaluator.dataset_meta = self.dataset.metainfo
        return evaluator

    def _network(self) -> torch.nn.Module:
        semflow = getattr(self.model, 'semflow', None)
        return self.model if semflow is None else semflow.network

    def _keep(self, i: int, fake_img: Tensor) -> None:
        if i in self._shown:
            self.pictures.append(_pixels(fake_img))

    def _paint(self, label_map: Tensor) -> np.ndarray:
        palette = self.dataset.metainfo.get('palette') or ()
        return paint(label_map, palette).numpy()

    def _count(self, *args) -> None:
        self._calls += 1

    def _items(self) -> Iterator[Tuple[int, dict]]:
        for i in track_iter_progress(list(range(self.num_images))):
            yield i, self.dataset[i]

    def _clock(self) -> float:
        device = next(self.model.parameters()).device
        if device.type == 'cuda':
            torch.cuda.synchronize(device)
        return time.perf_counter()


def solver_settings(semflow: SemFlowModel, solvers: Sequence[str],
                    steps: Sequence[int]) -> List[Tuple[dict, Row]]:
    """List all settings of the solver.

    Args:
        semflow (SemFlowModel): The model.
        solvers (Sequence[str]): Names of solvers.
        steps (Sequence[int]): Numbers of steps; an adaptive solver chooses
            its own and stands there once.

    Returns:
        List[Tuple[dict, Row]]: ``solver`` and ``num_steps``, for the model
        and as a table shows them.

    Raises:
        ValueError: If the model takes no such solver or number of steps.
    """
    settings = []
    for solver in solvers:
        adaptive = not semflow.process.has_fixed_steps(solver)
        for num_steps in steps[:1] if adaptive else steps:
            semflow.process.check_sampling(num_steps, solver)
            sampled = dict(solver=solver, num_steps=num_steps)
            shown = dict(sampled, num_steps='-') if adaptive else sampled
            settings.append((sampled, shown))
    return settings


def batch_of(item: dict) -> dict:
    """Make a batch of one item of a dataset, for ``test_step``."""
    return dict(inputs=[item['inputs']], data_samples=[item['data_samples']])


def _pixels(image: Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).cpu().numpy()


def _numbers(results: dict) -> Row:
    return {key: float(value) for key, value in results.items()}
