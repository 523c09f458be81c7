"""Both directions by number of steps and solver, in one table."""

from pathlib import Path
from typing import Iterator, Optional, Sequence, Union

from matplotlib import pyplot as plt
from mmengine.model import BaseModel

from mmseg_semflow.files import write_bytes
from mmseg_semflow.models.processes import DIRECTIONS
from mmseg_semflow.models.segmentors import SemFlow
from mmseg_semflow.synthesis import Synthesizer, image_and_labels
from mmseg_semflow.synthesis.gallery import to_png

from .loading import name_of
from .scoring import Evaluation, solver_settings
from .tables import Row, keys_of, to_csv, to_markdown

METRICS = (dict(type='MaskConsistency'), dict(type='SampleDiversity'))


class StepSweep:
    """Evaluate a segmentor in both directions for settings of the solver.

    The paper's Table 2 and Fig. 5.

    Args:
        model (BaseModel): A segmentor with its config, see
            :func:`load_model`.
        metrics (Sequence[dict], optional): Configs of the metrics of the
            synthesis. Defaults to None, mask consistency and diversity.
        synthesis (dict, optional): Arguments of :class:`Synthesizer` other
            than steps and solver. Defaults to None.
        num_images (int, optional): See :class:`Evaluation`. Defaults to None.

    Raises:
        ValueError: If the model is no segmentor or serves one direction
            alone, or see :class:`Evaluation`.
    """

    def __init__(self,
                 model: BaseModel,
                 metrics: Optional[Sequence[dict]] = None,
                 synthesis: Optional[dict] = None,
                 num_images: Optional[int] = None) -> None:
        cfg = model.cfg
        if not isinstance(model, SemFlow):
            raise ValueError(
                f"{name_of(cfg)} must have model.type='SemFlow', but it is "
                f'{cfg.model.type!r}')
        for direction in DIRECTIONS:
            model.semflow.process.check_direction(direction, type(self).__name__)
        self.model = model
        self.metrics = list(metrics or METRICS)
        self.synthesis = {
            **cfg.get('synthesis', {}),
            **dict(num_samples=2, segment_steps=model.test_cfg.num_steps),
            **(synthesis or {})
        }
        self.evaluation = Evaluation(model, num_images)
        # Find wrong settings of the synthesis before the long run.
        item = self.evaluation.dataset[0]
        self.evaluation.evaluator(self.metrics).process(data_samples=[
            self._synthesizer(1, None).evaluate(*image_and_labels(item))
        ])

    def _synthesizer(self, num_steps: int,
                     solver: Optional[str]) -> Synthesizer:
        return Synthesizer(
            self.model.semflow,
            **{**self.synthesis, 'num_steps': num_steps, 'solver': solver})

    def rows(self, steps: Sequence[int],
             solvers: Sequence[str]) -> Iterator[Row]:
        """Evaluate all settings, one after the other.

        Args:
            steps (Sequence[int]): Numbers of steps; an adaptive solver
                chooses its own and is evaluated once.
            solvers (Sequence[str]): Names of solvers.

        Yields:
            Row: Solver, steps, metrics of both directions, network calls
            (NFE) and seconds per image in each.

        Raises:
            ValueError: If a number of steps or a solver is unknown.
        """
        for sampled, shown in solver_settings(self.model.semflow, solvers, steps):
            print(f'{shown["solver"]}, {shown["num_steps"]} steps', flush=True)
            yield dict(
                **shown,
                **self.evaluation.segmentation(**sampled),
                **self.evaluation.synthesis(
                    self._synthesizer(**sampled), self.metrics))


def to_plot(rows: Sequence[Row]) -> bytes:
    """Plot every metric by the network calls of its direction, as PNG.

    Four plots stand in a row.
    """
    keys = [
        key for key in keys_of(rows)
        if not key.endswith(('_nfe', '_seconds')) and key not in (
            'solver', 'num_steps')
    ]
    columns = min(len(keys), 4)
    lines = -(-len(keys) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(3.2 * columns, 3 * lines), squeeze=False)
    order = keys_of(rows)
    for axis in axes.flat[len(keys):]:
        axis.remove()
    for axis, key in zip(axes.flat, keys, strict=False):
        direction = ('segmentation' if order.index(key) < order.index(
            'segmentation_nfe') else 'synthesis')
        for solver in dict.fromkeys(row['solver'] for row in rows):
            points = [(row[f'{direction}_nfe'], row[key]) for row in rows
                      if row['solver'] == solver and key in row]
            axis.plot(*zip(*points, strict=True), marker='o', label=solver)
        axis.set(title=key, xlabel=f'network calls, {direction}', xscale='log')
        axis.grid(alpha=0.3)
    axes[0, 0].legend(frameon=False)
    figure.tight_layout()
    return to_png(figure)


def write_tables(rows: Sequence[Row], out: Union[str, Path]) -> None:
    """Write ``sweep.md``, ``sweep.csv`` and ``sweep.png`` to a folder."""
    out = Path(out)
    write_bytes(out / 'sweep.md', to_markdown(rows).encode())
    write_bytes(out / 'sweep.csv', to_csv(rows).encode())
    write_bytes(out / 'sweep.png', to_plot(rows))
