"""A training loop that resumes exactly and passes over unreadable images."""

from itertools import chain, repeat
from typing import Sequence, Union

from mmengine.dist import get_rank, get_world_size
from mmengine.registry import LOOPS
from mmengine.runner import IterBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from mmseg_semflow.datasets.seeded import ITERATION, seed_generators, too_many

SEEDED = ('SeededSampler', 'RareClassSampler')


@LOOPS.register_module()
class ResumableTrainLoop(IterBasedTrainLoop):
    """IterBasedTrainLoop whose randomness is a function of seed and iteration.

    The random numbers of an iteration depend on (seed, rank, iteration), and
    a training pair on (seed, position), its number among all pairs. So a
    resumed training has no state of generators to restore and no data to
    skip: it gets what it would have got if it had not stopped.

    An unreadable image or label map is named in the log and replaced by the
    next one of the dataset. Every process counts the different files that it
    met since it was started, and stops when they are more than
    ``max_unreadable``.

    Args:
        runner (Runner): The runner.
        dataloader (DataLoader | dict): The data loader. From a config, its
            ``InfiniteSampler`` becomes a :class:`SeededSampler` and its
            dataset a :class:`SeededDataset`; it may also have a
            :class:`RareClassSampler`.
        max_iters (int): Number of iterations.
        max_unreadable (int): How many files may be unreadable. Defaults to 0.
        **kwargs: Further arguments of mmengine's ``IterBasedTrainLoop``.

    Raises:
        ValueError: If the config has another sampler.
    """

    def __init__(self,
                 runner: Runner,
                 dataloader: Union[DataLoader, dict],
                 max_iters: int,
                 max_unreadable: int = 0,
                 **kwargs) -> None:
        self.max_unreadable = max_unreadable
        self._unreadable = []
        self._runner = runner
        if isinstance(dataloader, dict):
            dataloader = self._seeded(dataloader)
        super().__init__(runner, dataloader, max_iters, **kwargs)

    def _seeded(self, cfg: dict) -> dict:
        sampler = dict(cfg['sampler'])
        kind = sampler.pop('type')
        if kind == 'InfiniteSampler':
            kind = 'SeededSampler'
        if kind not in SEEDED:
            raise ValueError(
                'ResumableTrainLoop needs train_dataloader.sampler.type='
                f"'InfiniteSampler' or 'RareClassSampler', but got {kind!r}: use "
                'IterBasedTrainLoop with it, which does not resume exactly')
        return dict(
            cfg,
            sampler=dict(sampler, type=kind, seed=self._seed),
            dataset=dict(
                type='SeededDataset',
                dataset=cfg['dataset'],
                max_unreadable=self.max_unreadable))

    @property
    def _seed(self) -> int:
        # The runner's own differs between ranks with diff_rank_seed.
        differs = self.runner._randomness_cfg.get('diff_rank_seed', False)
        return self.runner.seed - get_rank() * differs

    def run(self) -> None:
        """Train from the current iteration on."""
        if self.iter > 0:
            sampler = self.dataloader.sampler
            sampler.seed = self._seed
            sampler.start = (
                self.iter * self.dataloader.batch_size * get_world_size())
            # The old one has loaded from position 0. mmengine skips what was
            # trained on, which costs nothing here.
            self.dataloader_iterator = None
            self.dataloader_iterator = chain(
                repeat(None, self.iter), iter(self.dataloader))
        return super().run()

    def run_iter(self, data_batch: Sequence[dict]) -> None:
        """Run one iteration with random numbers of its own.

        Args:
            data_batch (Sequence[dict]): Batch of the data loader.

        Raises:
            RuntimeError: If too many files were unreadable.
        """
        self._count_unreadable(data_batch)
        seed_generators(ITERATION, self._seed, get_rank(), self.iter)
        super().run_iter(data_batch)

    def _count_unreadable(self, data_batch: dict) -> None:
        for sample in data_batch['data_samples']:
            for message in sample.metainfo.get('unreadable', ()):
                if message not in self._unreadable:
                    self._unreadable.append(message)
                    self.runner.logger.warning(
                        f'{message}: skipped, {len(self._unreadable)} of at '
                        f'most {self.max_unreadable}')
        if len(self._unreadable) > self.max_unreadable:
            raise RuntimeError(too_many(self._unreadable, self.max_unreadable))
