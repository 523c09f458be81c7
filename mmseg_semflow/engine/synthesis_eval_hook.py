"""Evaluation of the reverse flow while a segmentor is trained."""

from typing import Dict, List, Optional, Sequence

import torch
from mmengine.dist import get_dist_info
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner
from torch.distributed.fsdp import FullyShardedDataParallel

from mmseg_semflow.synthesis import Synthesizer, image_and_labels
from mmseg_semflow.synthesis.gallery import sample_grid


@HOOKS.register_module()
class SynthesisEvalHook(Hook):
    """Evaluate the synthesis beside the segmentation, in the same validation.

    Every ``interval`` validations the masks of the first images of the
    validation set are brought to images, with the weights that are being
    validated (the averaged ones where there is an ``EMAHook``). The metrics
    are logged beside mIoU, so that ``CheckpointHook`` can keep the best by
    them, and a grid (mask, real image, samples) of the first rank's images
    goes to the visualizer. Every rank takes its share of the images; the
    figures are those of one process.

    Args:
        metrics (Sequence[dict]): Configs of the metrics, see
            :mod:`mmseg_semflow.evaluation`.
        synthesis (dict, optional): Arguments of :class:`Synthesizer`.
            Defaults to None.
        interval (int): Validations between two evaluations. Defaults to 1.
        num_images (int, optional): Number of validation images, from the
            first. Defaults to None, all.
        num_shown (int): Number of images in the grid. Defaults to 4.

    Raises:
        ValueError: If ``interval`` or ``num_images`` is below 1.
    """

    # Before the loggers, after the metrics of the segmentation.
    priority = 'HIGH'

    def __init__(self,
                 metrics: Sequence[dict],
                 synthesis: Optional[dict] = None,
                 interval: int = 1,
                 num_images: Optional[int] = None,
                 num_shown: int = 4) -> None:
        for name, value in dict(
                interval=interval, num_images=num_images).items():
            if value is not None and value < 1:
                raise ValueError(f'{name} must be >= 1, but got {value}')
        self.metrics = metrics
        self.synthesis = dict(synthesis or {})
        self.interval = interval
        self.num_images = num_images
        self.num_shown = num_shown
        self._evaluator: Optional[Evaluator] = None
        self._synthesizer: Optional[Synthesizer] = None
        self._shown: List[dict] = []

    def before_train(self, runner: Runner) -> None:
        """Evaluate one image: wrong settings show now, not after hours."""
        synthesizer = self._make_synthesizer(runner)
        evaluator = self._make_evaluator(runner)
        item = runner.val_dataloader.dataset[0]
        evaluator.process(
            data_samples=[synthesizer.evaluate(*image_and_labels(item))])
        for metric in evaluator.metrics:
            metric.results.clear()

    def _make_evaluator(self, runner: Runner) -> Evaluator:
        if self._evaluator is None:
            self._evaluator = Evaluator(self.metrics)
        self._evaluator.dataset_meta = runner.val_dataloader.dataset.metainfo
        return self._evaluator

    def _make_synthesizer(self, runner: Runner) -> Synthesizer:
        model = runner.model.module if is_model_wrapper(
            runner.model) else runner.model
        if isinstance(runner.model, FullyShardedDataParallel):
            # Its ranks must call the network together and equally often.
            raise ValueError(
                'SynthesisEvalHook cannot synthesise with a model that FSDP shards: '
                'leave it out of custom_hooks, and evaluate the checkpoints by '
                'tools/test.py with a semflow_generator config')
        if not hasattr(model, 'semflow'):
            raise ValueError('SynthesisEvalHook needs a model of SemFlow, but '
                             f'got {type(model).__name__}')
        return Synthesizer(model.semflow, **self.synthesis)

    def before_val_epoch(self, runner: Runner) -> None:
        """Decide whether this validation has its turn."""
        # The log takes the last value of every key, however old.
        for key in self._figures():
            runner.message_hub.log_scalars.pop(f'val/{key}', None)
        self._shown = []
        self._synthesizer = None
        if self._number_of_validation(runner) % self.interval == 0:
            self._synthesizer = self._make_synthesizer(runner)
            self._make_evaluator(runner)

    def _figures(self) -> List[str]:
        metrics = self._evaluator.metrics if self._evaluator else []
        return [
            key for metric in metrics for key in getattr(metric, 'figures', ())
        ]

    @staticmethod
    def _number_of_validation(runner: Runner) -> int:
        # From the progress of the training, which a resumed one continues.
        loop = runner._train_loop
        if not isinstance(loop, BaseLoop):
            return 0
        if isinstance(loop, EpochBasedTrainLoop):
            return loop.epoch // loop.val_interval
        return loop.iter // loop.val_interval

    def _number_of_images(self, runner: Runner) -> int:
        total = len(runner.val_dataloader.dataset)
        return min(total, self.num_images or total)

    @torch.no_grad()
    def after_val_iter(self,
                       runner: Runner,
                       batch_idx: int,
                       data_batch: Optional[dict] = None,
                       outputs: Optional[Sequence] = None) -> None:
        """Synthesise the images of a validation batch."""
        if self._synthesizer is None:
            return
        rank, world_size = get_dist_info()
        first = batch_idx * runner.val_dataloader.batch_size
        for offset, (image, result) in enumerate(
                zip(data_batch['inputs'], outputs, strict=True)):
            # DefaultSampler deals the images out to the ranks one by one.
            number = (first + offset) * world_size + rank
            if number >= self._number_of_images(runner):
                return
            fields = self._synthesizer.evaluate(*image_and_labels(
                dict(inputs=image, data_samples=result)))
            self._evaluator.process(data_samples=[fields])
            if len(self._shown) < self.num_shown:
                self._shown.append(
                    {key: fields[key]
                     for key in ('gt_img', 'gt_label_map', 'samples')})

    def after_val_epoch(self,
                        runner: Runner,
                        metrics: Optional[Dict[str, float]] = None) -> None:
        """Log the metrics beside those of the segmentation."""
        if metrics is not None:
            # CheckpointHook passes over None where it keeps the best.
            metrics.update(dict.fromkeys(self._figures()))
        if self._synthesizer is None:
            return
        results = self._evaluator.evaluate(self._number_of_images(runner))
        if metrics is not None:
            metrics.update(results)
        for key, value in results.items():
            runner.message_hub.update_scalar(f'val/{key}', value)
        if self._shown:
            palette = runner.val_dataloader.dataset.metainfo.get('palette')
            runner.visualizer.add_image(
                'synthesis', sample_grid(self._shown, palette), runner.iter)
