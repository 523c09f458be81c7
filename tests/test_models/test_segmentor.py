import numpy as np
import pytest
import torch
from mmengine.model import BaseTTAModel
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from tiny import CODEC, segmentor_cfg, training_data


def build(test_cfg=None, **kwargs):
    return MODELS.build(segmentor_cfg(test_cfg, **kwargs)).eval()


def sample(size, **meta):
    return SegDataSample(
        metainfo=dict(img_shape=size, **{'ori_shape': size, **meta}))


def test_preprocessor_scales_both_to_the_same_range():
    model = build()
    data = training_data()
    levels = [s.gt_pseudo_mask.data.clone() for s in data['data_samples']]
    images = [image.clone() for image in data['inputs']]
    out = model.data_preprocessor(data, True)
    torch.testing.assert_close(out['inputs'][0],
                               images[0].flip(0).float() / 127.5 - 1)
    torch.testing.assert_close(out['data_samples'][1].gt_pseudo_mask.data,
                               levels[1] / 127.5 - 1)


def test_padding_in_training_is_void():
    cfg = segmentor_cfg()
    cfg['data_preprocessor']['size'] = (26, 40)
    model = MODELS.build(cfg)
    data = model.data_preprocessor(training_data(), True)
    for item in data['data_samples']:
        colors = item.gt_pseudo_mask.data
        assert colors.shape == (3, 26, 40)
        void = torch.tensor(CODEC['void_color']) / 127.5 - 1
        padded = item.gt_sem_seg.data[0] == 255
        assert padded.sum() == 26 * 40 - 24 * 32
        assert (colors[:, padded] == void[:, None]).all()
        labels = model.semflow.codec.decode(colors[None])[0]
        assert torch.equal(labels[~padded], item.gt_sem_seg.data[0][~padded])


def test_loss_is_that_of_the_model():
    model = build()
    data = model.data_preprocessor(training_data(), True)
    torch.manual_seed(3)
    found = model(**data, mode='loss')
    torch.manual_seed(3)
    expected = model.semflow.loss(
        data['inputs'],
        torch.stack([s.gt_pseudo_mask.data for s in data['data_samples']]),
        torch.cat([s.gt_sem_seg.data for s in data['data_samples']]))
    assert found.keys() == expected.keys() == {'loss_flow'}
    assert torch.equal(found['loss_flow'], expected['loss_flow'])


def test_predict_equals_the_argmax_of_resized_logits():
    model = build().double()
    inputs = torch.rand(2, 3, 24, 32, dtype=torch.float64) * 2 - 1
    meta = dict(ori_shape=(50, 61))
    found = model.predict(inputs, [sample((24, 32), **meta) for _ in range(2)])
    logits = model.encode_decode(inputs)
    expected = EncoderDecoder.postprocess_result(
        model, logits, [sample((24, 32), **meta) for _ in range(2)])
    for a, b in zip(found, expected, strict=True):
        assert a.pred_sem_seg.shape == (50, 61)
        assert a.pred_sem_seg.data.dtype == torch.int64
        torch.testing.assert_close(a.seg_logits.data, b.seg_logits.data)
        same = a.pred_sem_seg.data == b.pred_sem_seg.data
        margin = b.seg_logits.data.topk(2, 0).values
        assert (same | (margin[0] - margin[1] < 1e-9)).all()


def test_padding_and_flip_of_the_pipeline_are_undone():
    model = build()
    inputs = torch.rand(1, 3, 24, 32) * 2 - 1
    pseudo_mask = model.predict_pseudo_mask(inputs)
    meta = dict(
        ori_shape=(20, 30), img_padding_size=(0, 2, 0, 4), flip=True,
        flip_direction='horizontal')
    found = model.predict(inputs, [sample((20, 30), **meta)])[0]
    expected = model.semflow.codec.decode(
        pseudo_mask[..., :20, :30].flip(3))
    assert torch.equal(found.pred_sem_seg.data, expected)


def test_without_data_samples():
    found = build().predict(torch.rand(2, 3, 15, 21))
    assert [s.pred_sem_seg.shape for s in found] == [(15, 21)] * 2


def test_slide_equals_the_mean_of_window_logits():
    model = build(
        dict(num_steps=1, mode='slide', crop_size=(16, 16), stride=(10, 12)))
    inputs = torch.rand(1, 3, 26, 33) * 2 - 1
    expected = torch.zeros(1, 5, 26, 33)
    count = torch.zeros(26, 33)
    for top in (0, 10):
        for left in (0, 12, 17):
            window = inputs[..., top:top + 16, left:left + 16]
            logits = model.semflow.codec.logits(
                model.semflow.image_to_mask(window, 1))
            expected[..., top:top + 16, left:left + 16] += logits
            count[top:top + 16, left:left + 16] += 1
    assert count.min() == 1 and count.max() == 4
    torch.testing.assert_close(
        model.encode_decode(inputs), expected / count, atol=1e-5, rtol=1e-4)


def test_one_window_equals_whole():
    slide = build(
        dict(num_steps=2, mode='slide', crop_size=(64, 64), stride=(32, 32)))
    inputs = torch.rand(1, 3, 26, 34)
    expected = slide.encode_decode(inputs)
    slide.test_cfg.mode = 'whole'
    torch.testing.assert_close(slide.encode_decode(inputs), expected)


def test_time_augmentation_averages_flips(street):
    cfg = dict(type='SegTTAModel', module=segmentor_cfg())
    model = MODELS.build(cfg).eval()
    assert isinstance(model, BaseTTAModel)
    image = torch.randint(0, 256, (3, 24, 32), dtype=torch.uint8)
    views = [image, image.flip(2)]
    metas = [
        dict(flip=flip, flip_direction='horizontal', img_path='a.jpg')
        for flip in (False, True)
    ]
    found = model.test_step(
        dict(
            inputs=[[view] for view in views],
            data_samples=[[sample((24, 32), **meta)] for meta in metas]))[0]
    probability = 0
    for view, flip in zip(views, (False, True), strict=True):
        pixels = view.flip(0)[None].float() / 127.5 - 1
        logits = model.module.encode_decode(pixels)
        logits = logits.flip(3) if flip else logits
        probability = probability + logits.softmax(1)
    assert torch.equal(found.pred_sem_seg.data[0], probability.argmax(1)[0])


def test_logits_survive_what_mmengine_does_to_data_samples():
    found = build().predict(torch.rand(1, 3, 16, 16))[0]
    logits = found.seg_logits.data
    for copy in (found.clone(), found.cpu(), found.detach(),
                 found.to(torch.float32)):
        torch.testing.assert_close(copy.seg_logits.data, logits)
    torch.testing.assert_close(found.numpy().seg_logits.data, logits)
    assert found.to_dict()['pred_sem_seg']['data'].shape == (1, 16, 16)


def test_memory_of_171_classes(monkeypatch):
    """Below a tenth of the logits of all classes at 1024 x 2048."""
    codec = dict(num_classes=171, divisions=6, spacing=50)
    model = build(codec=codec)
    monkeypatch.setattr(model, 'predict_pseudo_mask', lambda inputs: inputs)
    inputs = torch.rand(1, 3, 128, 256) * 2 - 1
    shape = (1024, 2048)
    with torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU],
            profile_memory=True) as profile:
        model.predict(inputs, [sample((128, 256), ori_shape=shape)])
    level = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == '[memory]':
            level += event.nbytes()
            peak = max(peak, level)
    assert 3 * 4 * np.prod(shape) <= peak < 171 * 4 * np.prod(shape) / 10


@pytest.mark.parametrize('test_cfg, match', [
    (dict(num_steps=0), 'num_steps must be an integer >= 1, but got 0'),
    (dict(solver='rk45'), "solver must be one of .* but got 'rk45'"),
    (dict(mode='crop'), "test_cfg.mode must be .* but got 'crop'"),
    (dict(mode='slide'), 'test_cfg.crop_size must be .* but got None'),
    (dict(mode='slide', crop_size=(8, 8), stride=(0, 8)),
     r'test_cfg.stride must be .* but got \(0, 8\)'),
    (dict(mode='slide', crop_size=8, stride=8),
     'test_cfg.crop_size must be .* but got 8'),
    (dict(mode='slide', crop_size=(8, 8), stride=(8, 9)),
     r'stride=\(8, 9\) must not exceed crop_size=\(8, 8\)'),
    (dict(dtype='float16'), "test_cfg.dtype must be .* but got 'float16'"),
])
def test_bad_test_cfg(test_cfg, match):
    with pytest.raises(ValueError, match=match):
        build(test_cfg)


def test_test_cfg_changed_later_is_checked():
    model = build()
    model.test_cfg.num_steps = 0
    with pytest.raises(ValueError, match='num_steps must be .* got 0'):
        model.predict(torch.rand(1, 3, 8, 8))


def test_pretrained_is_refused():
    with pytest.raises(ValueError, match="pretrained='a.pth' is not used"):
        MODELS.build(segmentor_cfg() | dict(pretrained='a.pth'))


def test_padding_with_another_void():
    cfg = segmentor_cfg()
    cfg['data_preprocessor']['seg_pad_val'] = 0
    with pytest.raises(ValueError, match='ignore_index=255 .* but got 0'):
        MODELS.build(cfg)


def test_the_data_preprocessor_may_be_left_out():
    cfg = segmentor_cfg()
    del cfg['data_preprocessor']
    assert MODELS.build(cfg).data_preprocessor.mean.flatten()[0] == 127.5


def test_codecs_that_differ():
    model = build()
    other = training_data(codec=dict(CODEC, amplitude=3))
    data = model.data_preprocessor(other, True)
    with pytest.raises(
            ValueError, match="'amplitude': 3.* in the pipeline and .*: 6"):
        model(**data, mode='loss')


def test_a_pipeline_without_pseudo_masks():
    model = build()
    data = training_data()
    for item in data['data_samples']:
        del item.gt_pseudo_mask
    data = model.data_preprocessor(data, True)
    with pytest.raises(ValueError, match='must end with GeneratePseudoMask'):
        model(**data, mode='loss')
