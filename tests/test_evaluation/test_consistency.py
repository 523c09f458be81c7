"""Agreement of samples with their masks."""

from pathlib import Path

import pytest
import torch
from mmengine.registry import DefaultScope, init_default_scope
from mmseg.evaluation import IoUMetric
from mmseg.models import BaseSegmentor
from mmseg.registry import MODELS
from torch import nn

from mmseg_semflow.evaluation import MaskConsistency, judge
from mmseg_semflow.evaluation.judge import load_segmentor

META = dict(classes=('sky', 'road', 'tree', 'car', 'never'))
# RGB; each of its own brightness order, so that BGR would be mistaken.
COLORS = torch.tensor([[0, 0, 0], [200, 0, 0], [0, 200, 0], [0, 0, 200]])


@MODELS.register_module()
class NearestColor(BaseSegmentor):
    """A segmentor that knows the colours of its checkpoint."""

    def __init__(self, num_colors, **kwargs):
        super().__init__(data_preprocessor=dict(
            type='SegDataPreProcessor', bgr_to_rgb=True))
        self.align_corners = False
        self.colors = nn.Parameter(torch.zeros(num_colors, 3))

    def predict(self, inputs, data_samples):
        distance = (inputs[:, None] - self.colors[:, :, None, None])**2
        return self.postprocess_result(-distance.sum(2), data_samples)

    extract_feat = encode_decode = loss = _forward = None


@pytest.fixture
def segmentor(tmp_path):
    """Config and checkpoint."""
    config, checkpoint = tmp_path / 'nearest.py', tmp_path / 'colors.pth'
    config.write_text(
        "model = dict(type='NearestColor', num_colors=4)\n"
        "test_pipeline = [dict(type='LoadImageFromFile'),"
        " dict(type='PackSegInputs')]\n")
    torch.save(
        dict(
            state_dict=dict(colors=COLORS.float()),
            meta=dict(dataset_meta=META)), checkpoint)
    return dict(segmentor=str(config), checkpoint=str(checkpoint))


def evaluate(samples, meta=META, **kwargs):
    metric = MaskConsistency(**kwargs)
    metric.dataset_meta = meta
    metric.process(None, samples)
    return metric.evaluate(len(samples))


def iou_metric(samples):
    metric = IoUMetric()
    metric.dataset_meta = META
    for sample in samples:
        for label_map in sample['sample_label_maps']:
            metric.process(None, [
                dict(
                    pred_sem_seg=dict(data=label_map),
                    gt_sem_seg=dict(data=sample['gt_label_map']))
            ])
    return metric.evaluate(2 * len(samples))


def test_as_mmseg(results):
    expected = iou_metric(results)
    assert evaluate(results) == dict(
        mask_mIoU=expected['mIoU'], mask_aAcc=expected['aAcc'])


def test_void_does_not_count(results):
    for sample in results:
        sample['sample_label_maps'][:] = sample['gt_label_map'].clamp(max=3)
    assert evaluate(results) == dict(mask_mIoU=100, mask_aAcc=100)


def test_many_pixels(results, monkeypatch):
    """In single precision 2^24 + 1 pixels would be 2^24."""
    counts = iter([2.**24, 1.])
    monkeypatch.setattr(
        IoUMetric, 'intersect_and_union',
        lambda *args: [torch.full((5, ), next(counts))] * 4)
    metric = MaskConsistency()
    metric.dataset_meta = META
    metric.process(None, results[:1])
    areas = metric.results[0]['measure']['areas']
    assert areas.tolist() == [[2**24 + 1] * 5] * 4


def test_segmentor(results, segmentor):
    """It sees the images in their true colours, whatever scope is set."""
    for sample in results:
        rgb = COLORS[sample['sample_label_maps']].permute(0, 3, 1, 2)
        sample['samples'] = rgb.byte()
    expected = iou_metric(results)
    for sample in results:
        del sample['sample_label_maps']
    init_default_scope('mmengine')
    state = torch.get_rng_state()
    assert evaluate(results, **segmentor) == dict(
        mask_mIoU=expected['mIoU'], mask_aAcc=expected['aAcc'])
    assert DefaultScope.get_current_instance().scope_name == 'mmengine'
    assert torch.equal(torch.get_rng_state(), state)


def test_missing_checkpoint(results, segmentor, log):
    segmentor['checkpoint'] += '.gone'
    assert evaluate(results, **segmentor) == {}
    assert segmentor['checkpoint'] in log[-1] and 'checkpoint=' in log[-1]


def test_other_classes(results, segmentor):
    with pytest.raises(ValueError, match='as the dataset, 2, but has 5'):
        evaluate(results, dict(classes=('sky', 'road')), **segmentor)


@pytest.mark.parametrize('weights, reason', [
    (dict(colours=COLORS.float()), 'colors.pth is no checkpoint of .*nearest.py: it '
     'lacks 1 of its weights, such as colors'),
    (dict(colors=COLORS[:2].float()), 'does not fit .*nearest.py: .*size mismatch'),
])
def test_a_checkpoint_of_another_network(results, segmentor, weights, reason):
    """Which mmsegmentation would leave as it was drawn."""
    torch.save(
        dict(state_dict=weights, meta=dict(dataset_meta=META)),
        segmentor['checkpoint'])
    with pytest.raises(ValueError, match=f'(?s){reason}'):
        evaluate(results, **segmentor)


def test_what_a_checkpoint_of_a_judge_may_lack(segmentor):
    """What inference does not use, and other names of a weight."""
    network = load_segmentor(*segmentor.values(), 'cpu')
    network.auxiliary_head = nn.Linear(2, 2)
    network.same = network.colors
    network.norm = nn.BatchNorm1d(1, affine=False)
    colors = COLORS.float()
    stats = {'norm.running_mean': torch.zeros(1), 'norm.running_var': torch.ones(1)}
    for found in (dict(colors=colors), dict(same=colors)):
        # As DeepSpeed has them.
        torch.save(dict(module=found | stats), segmentor['checkpoint'])
        nn.init.zeros_(network.colors)
        judge._load_all(network, *segmentor.values())
        assert torch.equal(network.colors, colors)
    torch.save(dict(state_dict=dict(colors=colors)), segmentor['checkpoint'])
    with pytest.raises(ValueError, match='2 of its weights, such as norm.running_mean'):
        judge._load_all(network, *segmentor.values())


def test_a_judge_is_asked_as_it_is_tested(segmentor):
    """By its dataloader's pipeline; test_pipeline is a variable alone."""
    config = Path(segmentor['segmentor'])
    model, pipeline = config.read_text().splitlines()
    loader = pipeline.replace('test_pipeline = ', 'test_dataloader = dict(dataset=dict('
                              'pipeline=') + '))'
    config.write_text(f'{model}\n{loader}\ntest_pipeline = []\n')
    network = load_segmentor(*segmentor.values(), 'cpu')
    assert [transform.type for transform in network.cfg.test_pipeline] == [
        'LoadImageFromFile', 'PackSegInputs']
    config.write_text(model)
    with pytest.raises(ValueError, match='nearest.py must have a test_dataloader'):
        load_segmentor(*segmentor.values(), 'cpu')


def test_unknown_classes(results):
    with pytest.raises(ValueError, match="must have 'classes', but got None"):
        MaskConsistency().process(None, results)


@pytest.mark.parametrize('kwargs, match', [
    (dict(segmentor='a.py'), "together, but got 'a.py' and None"),
    (dict(checkpoint='a.pth'), "together, but got None and 'a.pth'"),
    (dict(segmentor='none.py', checkpoint='a.pth'), "config, but got 'none.py'"),
])
def test_wrong_segmentor(kwargs, match):
    with pytest.raises(ValueError, match=match):
        MaskConsistency(**kwargs)
