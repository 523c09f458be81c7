"""The adapter to mmagic."""

import copy
from importlib.util import find_spec

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.runner.checkpoint import load_checkpoint
from mmseg.registry import DATASETS
from mmseg.registry import MODELS as MMSEG_MODELS

import golden
from mmseg_semflow.models.checkpoint_guard import rename_old_keys
from mmseg_semflow.synthesis import Synthesizer
from tiny import (
    CODEC,
    clashing_names,
    listen,
    process_cfg,
    run_test,
    runner_cfg,
    save_old_checkpoint,
    segmentor_cfg,
    semflow_cfg,
    training_data,
    write_street,
)

if find_spec('mmagic') is None:
    pytest.skip('needs mmagic', allow_module_level=True)

from mmseg_semflow.models.generators import SemFlowGenerator  # isort: skip
from mmagic.registry import MODELS
from mmagic.structures import DataSample
from mmagic.utils import register_all_modules

TEST_CFG = dict(num_steps=2, num_samples=2, segment_steps=1, round_trip=True)
METRICS = [
    dict(type='MaskConsistency'),
    dict(type='SampleDiversity'),
    dict(type='RoundTrip')
]


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope('mmagic')


def generator_cfg(test_cfg=None, **kwargs):
    return dict(
        type='SemFlowGenerator',
        semflow=semflow_cfg(**kwargs),
        test_cfg=test_cfg or TEST_CFG)


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


def dataset_of(street):
    cfg = runner_cfg(street, '').test_dataloader.dataset
    return DATASETS.build(dict(cfg, _scope_='mmseg'))


@pytest.fixture(scope='module')
def segmentors_training(tmp_path_factory):
    """A segmentor, trained for 3 iterations, and its data."""
    init_default_scope('mmseg')
    root = tmp_path_factory.mktemp('segmentor')
    cfg = runner_cfg(write_street(root / 'street'), root / 'work', max_iters=3)
    cfg.experiment_name = str(root)
    runner = Runner.from_cfg(cfg)
    runner.train()
    return root, runner.model


def assert_same_weights(model, other):
    found, expected = model.state_dict(), other.state_dict()
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


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
        generator.semflow.network(z, t), segmentor.semflow.network(z, t))
    segmentor.load_state_dict(other, strict=True)
    assert not torch.equal(
        generator.semflow.network(z, t), segmentor.semflow.network(z, t))


def test_results_are_mmagics_and_the_synthesizers(street):
    model, dataset = MODELS.build(generator_cfg()).eval(), dataset_of(street)
    batch = [dataset[i] for i in range(2)]
    results = model.test_step(
        dict(
            inputs=[item['inputs'] for item in batch],
            data_samples=[item['data_samples'] for item in batch]))
    synthesizer = Synthesizer(model.semflow, **TEST_CFG)
    for item, result in zip(batch, results, strict=True):
        assert isinstance(result, DataSample)
        expected = synthesizer.evaluate(
            item['inputs'].flip(0), item['data_samples'].gt_sem_seg.data[0])
        assert result.protocol == expected.pop('protocol')
        for key, value in expected.items():
            # mmagic's pictures are BGR.
            value = value if 'label_map' in key else value.flip(-3)
            assert torch.equal(result.get(key), value), key
        assert torch.equal(result.gt_img, item['inputs'])
        assert result.gt_channel_order == result.pred_channel_order == 'BGR'
        assert torch.equal(result.output.pred_img, result.fake_img)
        assert result.img_path == item['data_samples'].img_path


def test_modes_of_mmagic(street):
    model = MODELS.build(generator_cfg()).eval()
    item = dataset_of(street)[0]
    data = model.data_preprocessor(
        dict(inputs=[item['inputs']], data_samples=[item['data_samples']]))
    images = model(**data, mode='tensor')
    predicted = model(**data, mode='predict')
    assert torch.equal(images[0], predicted[0].fake_img)
    with pytest.raises(ValueError, match="mode must be .* but got 'draw'"):
        model(**data, mode='draw')


def test_it_trains_and_goes_the_segmentors_way(segmentors_training, tmp_path):
    """Same data, same seed: the same weights as by the segmentor."""
    root, segmentor = segmentors_training
    runner = generator_runner(root / 'street', tmp_path / 'work', max_iters=3)
    found = listen(runner)
    runner.train()
    assert 'mask_mIoU' in found
    assert_same_weights(runner.model, segmentor)


def test_a_segmentors_checkpoint_by_own_and_mmagics_metrics(
        segmentors_training, tmp_path):
    root, segmentor = segmentors_training
    runner = generator_runner(
        root / 'street',
        tmp_path / 'work', [*METRICS, dict(type='PSNR'), dict(type='MAE')],
        load_from=str(root / 'work/iter_3.pth'))
    found = run_test(runner)
    assert_same_weights(runner.model, segmentor)
    synthesizer = Synthesizer(segmentor.semflow, **TEST_CFG)
    expected = []
    for item in dataset_of(root / 'street'):
        fields = synthesizer.evaluate(
            item['inputs'].flip(0), item['data_samples'].gt_sem_seg.data[0])
        error = fields['gt_img'].double() - fields['fake_img'].double()
        expected.append(error.abs().mean().item() / 255)
    assert found['MAE'] == pytest.approx(np.mean(expected), rel=1e-4)
    assert {'mask_mIoU', 'diversity', 'round_trip_PSNR', 'PSNR'} <= found.keys()
    pictures = list((tmp_path / 'work').rglob('vis_image/*.png'))
    assert len(pictures) == 4
    assert cv2.imread(str(pictures[0])).shape == (24, 64, 3)


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


@pytest.mark.parametrize('codec', [None, CODEC], ids=['stock', 'transforms'])
def test_it_trains_on_the_batches_of_the_segmentor(codec):
    generator = MODELS.build(generator_cfg())
    init_default_scope('mmseg')
    segmentor = MMSEG_MODELS.build(segmentor_cfg())
    segmentor.load_state_dict(generator.state_dict())
    losses = []
    for model in (generator, segmentor):
        torch.manual_seed(2)
        data = model.data_preprocessor(training_data(codec=codec), True)
        losses.append(model(**data, mode='loss'))
    assert losses[0] == losses[1] and losses[0].keys() == {'loss_flow'}


def test_a_wrong_label_names_its_file():
    generator = MODELS.build(generator_cfg())
    data = training_data()
    data['data_samples'][1].set_metainfo(dict(seg_map_path='ann_dir/7.png'))
    data['data_samples'][1].gt_sem_seg.data[0, 2, 3] = 77
    with pytest.raises(ValueError, match=r'ann_dir/7.png has the labels \[77\]'):
        generator.data_preprocessor(data, True)


@pytest.mark.parametrize('name', ['semflow', 'symmflow', 'bbdm'])
def test_every_process_that_leads_to_images(name):
    generator = MODELS.build(generator_cfg(
        dict(num_steps=2, num_samples=2), **process_cfg(name)))
    sample, = generator.predict(
        DataSample.stack([
            DataSample(
                gt_img=torch.randint(0, 256, (3, 16, 24), dtype=torch.uint8),
                gt_label_map=torch.randint(0, 5, (16, 24)),
                metainfo=dict(img_path='a.png'))
        ]))
    assert sample.samples.shape == (2, 3, 16, 24)
    assert not torch.equal(*sample.samples)


@pytest.mark.parametrize('name', ['dsm', 'bbdm_segmentor'])
def test_a_process_of_the_other_direction(name):
    with pytest.raises(ValueError, match='learns image_to_mask alone, but '
                       'SemFlowGenerator asks for mask_to_image'):
        MODELS.build(generator_cfg(**process_cfg(name)))


def test_a_file_of_the_first_version(tmp_path):
    """The segmentor's of then serves the generator of today."""
    semflow = save_old_checkpoint(tmp_path / 'iter_8.pth')
    generator = MODELS.build(dict(type='SemFlowGenerator', semflow=semflow))
    load_checkpoint(generator, str(tmp_path / 'iter_8.pth'))
    expected, _ = golden.read('semflow_options')
    rename_old_keys(expected, '')
    found = generator.semflow.state_dict()
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


def test_names_do_not_clash_with_those_of_mmagic():
    register_all_modules(init_default_scope=False)
    assert clashing_names() == []


def test_it_is_the_registered_class():
    assert isinstance(MODELS.build(generator_cfg()), SemFlowGenerator)
