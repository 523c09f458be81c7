"""The adapter to mmagic."""

import copy

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.registry import MODELS as MMSEG_MODELS

from mmseg_semflow.models import Synthesizer
from tiny import (
    TEST_PIPELINE,
    listen,
    run_test,
    runner_cfg,
    segmentor_cfg,
    semflow_cfg,
)

pytest.importorskip('mmagic')

from mmagic.registry import MODELS  # noqa: E402
from mmagic.structures import DataSample  # noqa: E402

from mmseg_semflow.models.generators import SemFlowGenerator  # noqa: E402

TEST_CFG = dict(num_steps=2, num_samples=2, segment_steps=1, round_trip=True)
METRICS = [
    dict(type='MaskConsistency'),
    dict(type='SampleDiversity'),
    dict(type='RoundTrip')
]


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope('mmagic')


def generator_cfg(**kwargs):
    return dict(
        type='SemFlowGenerator', semflow=semflow_cfg(**kwargs), test_cfg=TEST_CFG)


def generator_runner(street, work_dir, metrics=METRICS, max_iters=2, **options):
    cfg = runner_cfg(street, work_dir, max_iters=max_iters)
    cfg.default_scope = 'mmagic'
    cfg.experiment_name = str(work_dir)
    cfg.model = generator_cfg()
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset._scope_ = 'mmseg'
    cfg.val_evaluator = dict(type='Evaluator', metrics=metrics)
    cfg.test_evaluator = copy.deepcopy(cfg.val_evaluator)
    cfg.val_cfg = dict(type='MultiValLoop')
    cfg.test_cfg = dict(type='MultiTestLoop')
    cfg.default_hooks.visualization = dict(type='BasicVisualizationHook')
    cfg.visualizer = dict(
        type='ConcatImageVisualizer',
        vis_backends=[dict(type='LocalVisBackend')],
        fn_key='img_path',
        img_keys=['gt_img', 'fake_img'],
        bgr2rgb=True)
    cfg.merge_from_dict(options)
    return Runner.from_cfg(cfg)


def dataset_of(runner):
    return runner.test_loop.dataloaders[0].dataset


def test_one_checkpoint_for_both_directions():
    torch.manual_seed(1)
    generator = MODELS.build(generator_cfg())
    torch.manual_seed(2)
    init_default_scope('mmseg')
    segmentor = MMSEG_MODELS.build(segmentor_cfg())
    other = copy.deepcopy(generator.state_dict())
    assert generator.state_dict().keys() == segmentor.state_dict().keys()
    generator.load_state_dict(segmentor.state_dict(), strict=True)
    z, t = torch.randn(1, 12, 4, 4), torch.rand(1)
    assert torch.equal(
        generator.semflow.velocity_net(z, t),
        segmentor.semflow.velocity_net(z, t))
    segmentor.load_state_dict(other, strict=True)
    assert not torch.equal(
        generator.semflow.velocity_net(z, t),
        segmentor.semflow.velocity_net(z, t))


def test_results_are_mmagics_and_the_synthesizers(street, tmp_path):
    runner = generator_runner(street, tmp_path / 'work')
    dataset = dataset_of(runner)
    batch = [dataset[i] for i in range(2)]
    results = runner.model.eval().test_step(
        dict(
            inputs=[item['inputs'] for item in batch],
            data_samples=[item['data_samples'] for item in batch]))
    synthesizer = Synthesizer(runner.model.semflow, **TEST_CFG)
    for item, result in zip(batch, results, strict=True):
        assert isinstance(result, DataSample)
        expected = synthesizer.evaluate(
            item['inputs'].flip(0), item['data_samples'].gt_sem_seg.data[0])
        assert result.protocol == expected.pop('protocol')
        for key, value in expected.items():
            assert torch.equal(result.get(key), value), key
        assert torch.equal(result.gt_img, item['inputs'])
        assert torch.equal(result.output.pred_img, result.fake_img)
        assert result.img_path == item['data_samples'].img_path


def test_modes_of_mmagic(street, tmp_path):
    runner = generator_runner(street, tmp_path / 'work')
    model = runner.model.eval()
    item = dataset_of(runner)[0]
    data = model.data_preprocessor(
        dict(inputs=[item['inputs']], data_samples=[item['data_samples']]))
    images = model(**data, mode='tensor')
    predicted = model(**data, mode='predict')
    assert torch.equal(images[0], predicted[0].fake_img)
    with pytest.raises(ValueError, match="mode must be .* but got 'draw'"):
        model(**data, mode='draw')


def test_own_and_mmagics_metrics_in_one_test(street, tmp_path):
    metrics = [*METRICS, dict(type='PSNR'), dict(type='MAE')]
    runner = generator_runner(street, tmp_path / 'work', metrics)
    found = run_test(runner)
    expected = []
    for item in dataset_of(runner):
        fields = Synthesizer(runner.model.semflow, **TEST_CFG).evaluate(
            item['inputs'].flip(0), item['data_samples'].gt_sem_seg.data[0])
        error = fields['gt_img'].double() - fields['fake_img'].double()
        expected.append(error.abs().mean().item() / 255)
    assert found['MAE'] == pytest.approx(np.mean(expected), rel=1e-4)
    assert {'mask_mIoU', 'diversity', 'round_trip_PSNR', 'PSNR'} <= found.keys()
    pictures = list((tmp_path / 'work').rglob('vis_image/*.png'))
    assert len(pictures) == 4
    assert cv2.imread(str(pictures[0])).shape == (24, 64, 3)


def test_it_trains_and_goes_the_segmentors_way(street, tmp_path):
    """Same data, same seed: the same weights as by the segmentor."""
    runner = generator_runner(street, tmp_path / 'work', max_iters=3)
    found = listen(runner)
    runner.train()
    assert 'mask_mIoU' in found
    init_default_scope('mmseg')
    cfg = runner_cfg(street, tmp_path / 'segmentor', max_iters=3)
    cfg.experiment_name = str(tmp_path / 'segmentor')
    segmentor = Runner.from_cfg(cfg)
    segmentor.train()
    for key, value in runner.model.state_dict().items():
        assert torch.equal(segmentor.model.state_dict()[key], value), key


def test_a_segmentors_checkpoint_is_tested(street, tmp_path):
    cfg = runner_cfg(street, tmp_path / 'segmentor', max_iters=1)
    cfg.experiment_name = str(tmp_path / 'segmentor')
    init_default_scope('mmseg')
    trained = Runner.from_cfg(cfg)
    trained.train()
    init_default_scope('mmagic')
    runner = generator_runner(
        street,
        tmp_path / 'work',
        load_from=str(tmp_path / 'segmentor/iter_1.pth'))
    run_test(runner)
    for key, value in trained.model.state_dict().items():
        assert torch.equal(runner.model.state_dict()[key], value), key


def test_wrong_settings_are_refused_when_it_is_built():
    cfg = generator_cfg()
    cfg['test_cfg'] = dict(num_samples=0)
    with pytest.raises(ValueError, match='num_samples must be an integer >= 1'):
        MODELS.build(cfg)


def test_padding_must_be_void():
    cfg = generator_cfg()
    cfg['data_preprocessor'] = dict(
        type='SemFlowGeneratorDataPreProcessor', seg_pad_val=0)
    with pytest.raises(ValueError, match='must be ignore_index=255 .* got 0'):
        MODELS.build(cfg)


def test_pipeline_without_pseudo_masks(street, tmp_path):
    runner = generator_runner(
        street, tmp_path / 'work',
        **{'train_dataloader.dataset.pipeline': TEST_PIPELINE})
    with pytest.raises(ValueError, match='has no gt_pseudo_mask'):
        runner.train()


def test_it_is_the_registered_class():
    assert isinstance(MODELS.build(generator_cfg()), SemFlowGenerator)
