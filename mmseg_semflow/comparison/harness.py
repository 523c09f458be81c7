"""Several methods on the same pictures, in one table."""

from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union

from matplotlib import pyplot as plt
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.evaluator import Evaluator
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmseg.models import BaseSegmentor

from mmseg_semflow.apis.loading import load_weights
from mmseg_semflow.apis.scoring import Evaluation, solver_settings
from mmseg_semflow.apis.tables import Row, to_csv, to_markdown
from mmseg_semflow.extras import reason
from mmseg_semflow.files import write_bytes
from mmseg_semflow.synthesis import Synthesizer
from mmseg_semflow.synthesis.gallery import to_gallery, to_png

SEGMENTATION, SYNTHESIS = 'segmentation', 'synthesis'
NUM_STEPS = (1, 2, 5, 10, 25)
UNKNOWN = 'unknown'


class Comparison:
    """Evaluate trained methods on the same test data.

    A config may say how its method is sampled, by ``comparison =
    dict(solvers=[...], num_steps=[...])``; without, it is by its model's own
    solver in 1, 2, 5, 10 and 25 steps. A method without a flow, such as those
    of mmsegmentation, has one row.

    Args:
        configs (Sequence[str]): The configs' files.
        num_steps (Sequence[int], optional): Numbers of steps of all methods,
            in place of those of their configs. Defaults to None.
        seeds (Sequence[int]): See :meth:`Evaluation.segmentation`.
        num_images (int, optional): See :class:`Evaluation`. Defaults to None.
        metrics (Sequence[dict]): Metrics of the images that are synthesised.
            Defaults to none, which leaves the synthesis out.
        num_samples (int): Images per mask. Defaults to 2.
        device (str, optional): Defaults to None, a GPU if there is one.
        solvers (Sequence[str], optional): Names of the solvers of all methods
            with a flow, in place of those of their configs. Defaults to None.

    Attributes:
        pictures (Dict[str, Dict[str, List[np.ndarray]]]): For each of the
            tables some test images, their masks and what the methods made of
            them, as :func:`to_gallery` takes them.

    Raises:
        ValueError: If a config cannot be read, a library that its method needs
            included; or if one has other test data, other classes or, among
            segmentors, other metrics than the first.
        KeyError: If there is no such metric of the images.
    """

    def __init__(self,
                 configs: Sequence[str],
                 num_steps: Optional[Sequence[int]] = None,
                 seeds: Sequence[int] = (0, ),
                 num_images: Optional[int] = None,
                 metrics: Sequence[dict] = (),
                 num_samples: int = 2,
                 device: Optional[str] = None,
                 solvers: Optional[Sequence[str]] = None) -> None:
        self.solvers = solvers
        self.configs = [_read(path) for path in configs]
        self.num_steps = num_steps
        self.seeds = list(seeds)
        self.num_images = num_images
        self.metrics = list(metrics)
        self.num_samples = num_samples
        self.device = device or get_device()
        self.pictures: Dict[str, dict] = {SEGMENTATION: {}, SYNTHESIS: {}}
        self._check_data()
        # Find unknown metrics before the long run.
        Evaluator(self.metrics)

    def _check_data(self) -> None:
        first: Dict[str, tuple] = {}
        for cfg in self.configs:
            for name, value in _test_data(cfg).items():
                source, expected = first.setdefault(name, (cfg.filename, value))
                if value != expected:
                    raise ValueError(
                        f'all configs must have the same {name}, but '
                        f'{cfg.filename} has {_shortened(value)} and {source} '
                        f'has {_shortened(expected)}')

    def rows(self, checkpoints: Sequence[str]) -> Iterator[Tuple[str, Row]]:
        """Evaluate all methods, one after the other.

        Args:
            checkpoints (Sequence[str]): One per config. Where there is none, or
                it does not fit, the row says so and the others go on.

        Yields:
            Tuple[str, Row]: ``'segmentation'`` or ``'synthesis'``, the table
            that the row belongs to, and the row.
        """
        stems = [Path(cfg.filename).stem for cfg in self.configs]
        for cfg, stem, checkpoint in zip(
                self.configs, stems, checkpoints, strict=True):
            name = dict(method=stem)
            if stems.count(stem) > 1:
                name['method'] = f'{stem} ({checkpoint})'
            print(f'\n{name["method"]}', flush=True)
            try:
                model, budget = self._load(cfg, checkpoint)
                evaluation = Evaluation(model, self.num_images)
                for table, row in self._rows_of(model, evaluation):
                    row = {**name, **row, **budget}
                    if table == SYNTHESIS:
                        height, width = evaluation.pictures[0].shape[:2]
                        row['size'] = f'{width}x{height}'
                    grid = self.pictures[table]
                    grid.update({} if grid else evaluation.truth)
                    grid[_name(row, 'num_steps')] = evaluation.pictures
                    yield table, row
            except (ValueError, OSError) as error:
                yield SEGMENTATION, dict(name, note=str(error))

    def _load(self, cfg: Config, checkpoint: str) -> Tuple[BaseModel, Row]:
        if not Path(checkpoint).is_file():
            raise FileNotFoundError(f'there is no checkpoint {checkpoint}')
        init_default_scope(cfg.get('default_scope', 'mmseg'))
        try:
            model = MODELS.build(cfg.model)
        except (TypeError, KeyError, ImportError) as error:
            raise ValueError(
                f'{cfg.filename} cannot be built: {error}') from error
        try:
            meta = load_weights(model, checkpoint, strict=True)
        except RuntimeError as error:
            raise ValueError(f'{checkpoint} does not fit {cfg.filename}: '
                             f'{error}') from error
        model.cfg = cfg
        # Of a GAN what synthesises, not what judges or maps back.
        synthesising = model
        if hasattr(model, 'generators'):
            synthesising = model.generators[model._default_domain]
        learned = sum(
            p.numel() for p in synthesising.parameters() if p.requires_grad)
        budget = dict(
            parameters_millions=learned / 1e6, **_budget(meta))
        return model.to(self.device).eval(), budget

    def _rows_of(self, model: BaseModel,
                 evaluation: Evaluation) -> Iterator[Tuple[str, Row]]:
        if hasattr(model, 'semflow'):
            yield from self._rows_of_pairs(model, evaluation)
        elif isinstance(model, BaseSegmentor):
            yield SEGMENTATION, evaluation.segmentation(seeds=self.seeds)
        elif self.metrics:
            model.test_cfg.update(num_samples=self.num_samples)
            yield SYNTHESIS, evaluation.generation(self.metrics)

    def _rows_of_pairs(self, model: BaseModel,
                       evaluation: Evaluation) -> Iterator[Tuple[str, Row]]:
        semflow = model.semflow
        segments = (
            isinstance(model, BaseSegmentor)
            and 'image_to_mask' in semflow.process.directions)
        synthesises = (
            bool(self.metrics)
            and 'mask_to_image' in semflow.process.directions)
        how = model.cfg.get('comparison', {})
        steps = self.num_steps or how.get('num_steps', NUM_STEPS)
        solvers = self.solvers or how.get(
            'solvers', [semflow.process.default_solver])
        for sampled, shown in solver_settings(semflow, solvers, steps):
            print(f'{shown["solver"]}, {shown["num_steps"]} steps', flush=True)
            if segments:
                yield SEGMENTATION, {
                    **shown,
                    **evaluation.segmentation(**sampled, seeds=self.seeds)
                }
            if synthesises:
                synthesizer = Synthesizer(
                    semflow, **{
                        **model.cfg.get('synthesis', {}),
                        **sampled, 'num_samples': self.num_samples
                    })
                yield SYNTHESIS, {
                    **shown,
                    **evaluation.synthesis(synthesizer, self.metrics)
                }

    @property
    def protocol(self) -> str:
        """str: What every figure of the tables depends on."""
        seeds = ', '.join(map(str, self.seeds))
        text = (f'{self.num_images or "All"} test images, one at a time; '
                f'segmentation with seeds {seeds}')
        for metric in self.metrics:
            text += f'; {metric["type"]}'
            if 'segmentor' in metric:
                text += (f' by {Path(metric["segmentor"]).name} '
                         f'({metric["checkpoint"]})')
        if self.metrics:
            text += f' of {self.num_samples} samples per mask, seed 0'
        return text + '.'


def _budget(meta: dict) -> Row:
    """List what a checkpoint says of its training."""
    settings = meta.get('settings', {})
    return dict(
        iterations=meta.get('iter', UNKNOWN),
        batch=settings.get('images in an iteration', UNKNOWN),
        train_images=settings.get('number of images', UNKNOWN))


def _read(path: str) -> Config:
    try:
        return Config.fromfile(path)
    except ImportError as error:
        raise ValueError(f'{path} cannot be read: {reason(error)}') from error


def _test_data(cfg: Config) -> Dict[str, Any]:
    """List what all configs must have in common."""
    if 'test_dataloader' not in cfg:
        raise ValueError(f'{cfg.filename} has no test_dataloader')
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    items = [dataset.get_data_info(i) for i in range(len(dataset))]
    common = {
        'classes': tuple(dataset.metainfo.get('classes') or ()),
        'test data': [(item['img_path'], item.get('seg_map_path'),
                       item.get('reduce_zero_label')) for item in items]
    }
    if cfg.get('default_scope', 'mmseg') == 'mmseg':
        common['test_evaluator'] = cfg.get('test_evaluator')
    return common


def _shortened(value: Any) -> str:
    text = str(value)
    return text if len(text) < 200 else f'{text[:200]}... ({len(value)} in all)'


def budget_note(rows: Sequence[Row]) -> str:
    """Say whether all rows were trained alike."""
    keys = ('iterations', 'batch', 'train_images')
    budgets: Dict[tuple, List[str]] = {}
    for row in rows:
        if keys[0] in row:
            methods = budgets.setdefault(tuple(row[key] for key in keys), [])
            methods += [row['method']] * (row['method'] not in methods)
    texts = []
    for budget, methods in budgets.items():
        iterations, batch, images = (
            '?' if number == UNKNOWN else number for number in budget)
        texts.append(f'{", ".join(methods)}: {iterations} iterations of {batch} '
                     f'images, from {images}')
    told = 'The budgets differ: ' if len(texts) > 1 else 'Equal budgets: '
    if any(UNKNOWN in budget for budget in budgets):
        told = 'The budgets, as far as checkpoints tell them: '
    return f'{told}{"; ".join(texts)}.' if texts else ''


def to_plot(rows: Sequence[Row]) -> bytes:
    """Plot mIoU by the network calls per image, as PNG.

    Bars reach from the smallest to the largest of several seeds.
    """
    figure, axis = plt.subplots(figsize=(7.5, 4))
    rows = [row for row in rows if 'mIoU' in row]
    for name in dict.fromkeys(_name(row) for row in rows):
        own = [row for row in rows if _name(row) == name]
        nfe = [row['segmentation_nfe'] for row in own]
        miou = [row['mIoU'] for row in own]
        if 'num_steps' not in own[0]:
            axis.axhline(miou[0], linestyle='--', linewidth=1, color='gray')
            axis.annotate(name, (1, miou[0]), fontsize=8, va='bottom')
            continue
        # Means may be rounded beyond the ends.
        reach = [[
            max(0, sign * (row.get(key, row['mIoU']) - row['mIoU']))
            for row in own
        ] for key, sign in (('mIoU_min', -1), ('mIoU_max', 1))]
        axis.errorbar(nfe, miou, reach, marker='o', capsize=3, label=name)
    axis.set(xlabel='network calls per image', ylabel='mIoU', xscale='log')
    axis.xaxis.set_major_formatter('{x:.0f}')
    axis.grid(alpha=0.3)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(
            frameon=False, fontsize=8, loc='upper left', bbox_to_anchor=(1, 1))
    figure.tight_layout()
    return to_png(figure)


def _name(row: Row, *more: str) -> str:
    keys = ('method', 'solver', *more)
    return ' '.join(str(row[key]) for key in keys if key in row)


def write_comparison(tables: Dict[str, List[Row]], pictures: Dict[str, dict],
                     protocol: str, out: Union[str, Path],
                     changed: Optional[str] = None) -> str:
    """Write the tables, the plot and the pictures to a folder.

    Args:
        tables (Dict[str, List[Row]]): Rows of ``'segmentation'`` and
            ``'synthesis'``.
        pictures (Dict[str, dict]): See :class:`Comparison`.
        protocol (str): What stands below the tables.
        out (str | Path): The folder: ``comparison.md``, ``comparison.png``
            and for each table a ``.csv`` and a ``.png``.
        changed (str, optional): The one of the tables that has changed since
            the last call: what shows another is left as it is. Defaults to
            None, both have.

    Returns:
        str: The Markdown.
    """
    out, parts = Path(out), []
    for name, rows in tables.items():
        if rows:
            parts += [f'## {name.capitalize()}\n', to_markdown(rows)]
        if changed not in (None, name):
            continue
        if rows:
            write_bytes(out / f'{name}.csv', to_csv(rows).encode())
        if pictures[name]:
            write_bytes(out / f'{name}.png', to_gallery(pictures[name]))
        if name == SEGMENTATION:
            write_bytes(out / 'comparison.png', to_plot(rows))
    parts += [
        protocol,
        budget_note([row for rows in tables.values() for row in rows])
    ]
    text = '\n'.join(parts) + '\n'
    write_bytes(out / 'comparison.md', text.encode())
    return text
