"""Both directions in the validation of a training run."""

import copy
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.model import MMFullyShardedDataParallel

from mmseg_semflow.engine.synthesis_eval_hook import sample_grid
from mmseg_semflow.evaluation import MaskConsistency, SampleDiversity
from mmseg_semflow.synthesis import Synthesizer
from runs import build_runner
from tiny import META

HOOK = dict(
    type='SynthesisEvalHook',
    metrics=[dict(type='MaskConsistency'), dict(type='SampleDiversity')],
    synthesis=dict(num_steps=2, num_samples=2, segment_steps=1, seed=3))


def build(root, work_dir, hook=None, max_iters=2, **options):
    return build_runner(
        root, work_dir, max_iters, custom_hooks=[dict(HOOK, **(hook or {}))],
        **options)


@pytest.fixture
def run(shared_street, tmp_path):

    def run(hook=None, name='work', **options):
        return build(shared_street, tmp_path / name, hook, **options)

    return run


@pytest.fixture(scope='module')
def trained(shared_street, tmp_path_factory):
    """A training with one validation: not to be changed."""
    work_dir = tmp_path_factory.mktemp('synthesis') / 'work'
    runner = build(shared_street, work_dir, dict(num_shown=3))
    runner.train()
    return runner


def scalars(runner):
    return {
        key: buffer.data[0].tolist()
        for key, buffer in runner.message_hub.log_scalars.items()
        if key.startswith('val/')
    }


def by_hand(runner, num_images=None):
    """The same figures, from the model and the dataset alone."""
    synthesizer = Synthesizer(
        copy.deepcopy(runner.model.semflow).eval(), **HOOK['synthesis'])
    metrics = [MaskConsistency(), SampleDiversity()]
    dataset = runner.val_dataloader.dataset
    fields = [
        synthesizer.evaluate(
            item['inputs'].flip(0), item['data_samples'].gt_sem_seg.data[0])
        for item in list(dataset)[:num_images]
    ]
    found = {}
    for metric in metrics:
        metric.dataset_meta = META
        metric.process(None, fields)
        found.update(metric.evaluate(len(fields)))
    return found


def assert_those_of_the_images(runner, num_images):
    found, expected = scalars(runner), by_hand(runner, num_images)
    assert 'val/mIoU' in found
    assert expected.keys() > {'mask_mIoU', 'diversity'}
    for key, value in expected.items():
        assert found[f'val/{key}'] == pytest.approx([value], abs=1e-3), key


def test_metrics_beside_miou_are_those_of_the_images(trained):
    assert_those_of_the_images(trained, None)


def test_metrics_of_the_first_images(run):
    runner = run(dict(num_images=3))
    runner.train()
    assert_those_of_the_images(runner, 3)


def test_averaged_weights_are_evaluated(run):
    runner = run(dict(priority='HIGH'))
    ema = dict(type='EMAHook', momentum=1e-4)
    runner.register_hook(ema)
    runner.train()
    found = scalars(runner)['val/diversity']
    raw = by_hand(runner)['diversity']
    averaged = next(h for h in runner.hooks if type(h).__name__ == 'EMAHook')
    averaged._swap_ema_parameters()
    assert found == pytest.approx([by_hand(runner)['diversity']], abs=1e-3)
    assert found != pytest.approx([raw], abs=1e-6)


@pytest.fixture(scope='module')
def every_second(shared_street, tmp_path_factory):
    """Three validations, of which the second has its turn: not to be changed.

    ``LPIPS`` has no weights, so that no validation has it.
    """
    folder = tmp_path_factory.mktemp('every_second')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('TORCH_HOME', str(folder))
        runner = build(
            shared_street, folder / 'work', dict(
                interval=2,
                metrics=HOOK['metrics'] + [dict(type='PerceptualDistance')]),
            max_iters=3, **{
                'train_cfg.val_interval': 1,
                'default_hooks.checkpoint.interval': 1,
                'default_hooks.checkpoint.save_best': ['mask_mIoU', 'LPIPS'],
                'default_hooks.checkpoint.rule': ['greater', 'less']
            })
        runner.train()
    return runner


def test_every_second_validation_over_a_resume(run, every_second):
    assert len(scalars(every_second)['val/mIoU']) == 3
    assert 'val/diversity' not in scalars(every_second)
    resumed = run(
        dict(interval=2), max_iters=4, resume=True,
        load_from=str(Path(every_second.work_dir, 'iter_3.pth')),
        **{'train_cfg.val_interval': 1})
    resumed.train()
    # The checkpoint of iteration 3 was written before its validation.
    assert len(scalars(resumed)['val/mIoU']) == 3
    assert len(scalars(resumed)['val/diversity']) == 1


def test_old_figures_are_not_logged_again(every_second):
    log, = Path(every_second.work_dir).rglob('vis_data/scalars.json')
    records = [json.loads(line) for line in log.read_text().splitlines()]
    validations = [record for record in records if 'mIoU' in record]
    assert ['diversity' in record for record in validations] == [
        False, True, False]


@pytest.mark.parametrize('key, best', [('mask_mIoU', ['iter_2']), ('LPIPS', [])])
def test_best_checkpoint_by_synthesis(every_second, key, best):
    """Also where a validation has no such figure, or none has."""
    paths = Path(every_second.work_dir).glob(f'best_{key}_*.pth')
    assert [path.stem.removeprefix(f'best_{key}_') for path in paths] == best


def test_training_goes_the_same_way_with_the_hook(run):
    weights = []
    for name, interval in (('with', 1), ('without', 100)):
        runner = run(
            dict(interval=interval), name=name, **{'train_cfg.val_interval': 1})
        runner.train()
        weights.append(runner.model.state_dict())
    for key, value in weights[0].items():
        assert torch.equal(value, weights[1][key]), key


def test_grid_is_written(trained):
    grids = list(Path(trained.work_dir).rglob('synthesis_*.png'))
    assert len(grids) == 1
    grid = cv2.imread(str(grids[0]))
    # Three rows of mask, real image and two samples of 24 x 32 pixels.
    assert grid.shape == (3 * 24, 4 * 32, 3)
    dataset = trained.val_dataloader.dataset
    real = np.concatenate([
        dataset[i]['inputs'].permute(1, 2, 0).numpy() for i in range(3)
    ])
    np.testing.assert_array_equal(grid[:, 32:64], real)


def test_grid_of_different_sizes():
    shown = [
        dict(
            gt_img=torch.zeros(3, 4, width, dtype=torch.uint8),
            gt_label_map=torch.tensor([[0, 1, 255, 2]]).repeat(4, width // 4),
            samples=torch.zeros(1, 3, 4, width, dtype=torch.uint8))
        for width in (4, 8)
    ]
    grid = sample_grid(shown, [[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    assert grid.shape == (8, 24, 3)
    assert grid[0, :4].tolist() == [[1, 2, 3], [4, 5, 6], [0, 0, 0], [7, 8, 9]]


@pytest.mark.parametrize('wrong, message', [
    (dict(interval=0), 'interval must be >= 1, but got 0'),
    (dict(num_images=0), 'num_images must be >= 1, but got 0'),
])
def test_wrong_settings_of_the_hook(run, wrong, message):
    with pytest.raises(ValueError, match=message):
        run(wrong).train()


@pytest.mark.parametrize('hook, message', [
    (dict(synthesis=dict(num_samples=0)), 'num_samples must be an integer >= 1'),
    (dict(synthesis=dict(num_samples=2)), 'needs sample_label_maps: set segment'),
    (dict(synthesis=dict(segment_steps=1)), 'at least 2 samples per mask'),
    (dict(metrics=[dict(type='RoundTrip')]), 'set round_trip=True'),
])
def test_wrong_synthesis_stops_before_training(run, hook, message):
    runner = run(hook)
    with pytest.raises(ValueError, match=message):
        runner.train()
    assert runner.iter == 0


class Sharded(MMFullyShardedDataParallel):
    """As FSDP leaves a model, without processes."""

    def __init__(self, module):
        torch.nn.Module.__init__(self)
        self._fsdp_wrapped_module = module


@pytest.mark.parametrize('wrap, match', [
    (lambda model: torch.nn.Linear(1, 1), 'needs a model of SemFlow.*Linear'),
    (Sharded, 'that FSDP shards: leave it out of custom_hooks'),
])
def test_other_models_are_refused(run, wrap, match):
    runner = run()
    runner.model = wrap(runner.model)
    hook = next(h for h in runner.hooks if type(h).__name__ == 'SynthesisEvalHook')
    with pytest.raises(ValueError, match=match):
        hook.before_train(runner)


