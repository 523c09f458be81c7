import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import Compose
from mmengine.model import BaseTTAModel
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from tiny import (
    CODEC,
    segmentor_cfg,
    train_pipeline,
    training_data,
    transforms_pipeline,
)


def build(test_cfg=None, **kwargs):
    return MODELS.build(segmentor_cfg(test_cfg, **kwargs)).eval()


def sample(size, **meta):
    return SegDataSample(
        metainfo=dict(img_shape=size, **{'ori_shape': size, **meta}))


def read_pairs(folder, pipeline):
    """Pass the training pairs through a pipeline, as a batch."""
    load = Compose(pipeline)
    items = [
        load(
            dict(
                img_path=str(image),
                seg_map_path=str(folder / f'ann_dir/train/{image.stem}.png'),
                reduce_zero_label=False,
                seg_fields=[]))
        for image in sorted((folder / 'img_dir/train').iterdir())
    ]
    return {key: [item[key] for item in items] for key in items[0]}


def seen_by_the_loss(model, data, monkeypatch):
    """Images, pseudo masks and labels that the model is trained on."""
    seen = []
    monkeypatch.setattr(model.semflow, 'loss', lambda *args: seen.extend(args))
    model(**model.data_preprocessor(data, True), mode='loss')
    return seen


def test_images_are_rgb_and_scaled(monkeypatch):
    model = build()
    data = training_data()
    pictures = torch.stack(data['inputs'])
    images, _, labels = seen_by_the_loss(model, data, monkeypatch)
    torch.testing.assert_close(images, pictures.flip(1).float() / 127.5 - 1)
    assert torch.equal(labels, torch.cat([
        sample.gt_sem_seg.data for sample in data['data_samples']]))


def test_pseudo_masks_of_the_pipeline_are_scaled(monkeypatch):
    model = build()
    data = training_data(codec=CODEC)
    levels = [s.gt_pseudo_mask.data.clone() for s in data['data_samples']]
    _, found, _ = seen_by_the_loss(model, data, monkeypatch)
    torch.testing.assert_close(found, torch.stack(levels) / 127.5 - 1)


@pytest.mark.parametrize('amplitude', [0, 6])
@pytest.mark.parametrize('codec', [None, CODEC], ids=['stock', 'transforms'])
def test_padding_in_training_is_void(codec, amplitude, monkeypatch):
    cfg = segmentor_cfg(codec=dict(CODEC, amplitude=amplitude))
    cfg['data_preprocessor']['size'] = (26, 40)
    model = MODELS.build(cfg)
    codec = codec and dict(codec, amplitude=amplitude)
    _, colors, labels = seen_by_the_loss(
        model, training_data(codec=codec), monkeypatch)
    assert colors.shape == (2, 3, 26, 40)
    padded = torch.ones(26, 40, dtype=torch.bool)
    padded[:24, :32] = False
    assert torch.equal(labels == 255, padded.expand(2, -1, -1))
    void = torch.tensor(CODEC['void_color']) / 127.5 - 1
    error = (colors[..., padded] - void[:, None]).abs().max() * 127.5
    # By the transforms what is padded is not perturbed.
    assert error <= (1e-4 if codec or not amplitude else amplitude + 1e-4)
    decoded = model.semflow.codec.decode(colors)
    assert torch.equal(decoded[:, ~padded], labels[:, ~padded])


@pytest.mark.parametrize('codec', [None, CODEC], ids=['stock', 'transforms'])
def test_loss_is_that_of_the_model(codec):
    model = build(codec=dict(CODEC, amplitude=0.))
    codec = codec and dict(codec, amplitude=0.)
    data = model.data_preprocessor(training_data(codec=codec), True)
    labels = torch.cat([s.gt_sem_seg.data for s in data['data_samples']])
    of_model = model.semflow.codec
    torch.manual_seed(3)
    found = model(**data, mode='loss')
    torch.manual_seed(3)
    expected = model.semflow.loss(
        data['inputs'], of_model.normalize(of_model.encode(labels)), labels)
    assert found.keys() == expected.keys() == {'loss_flow'}
    assert torch.equal(found['loss_flow'], expected['loss_flow'])


def test_both_pipelines_are_one_training_without_perturbation(street):
    codec = dict(CODEC, amplitude=0)
    model = build(codec=codec, losses=[
        dict(type='MatchingLoss', ignore_void=True), dict(type='OneStepMapLoss')])
    losses = []
    for pipeline in (train_pipeline(flip=1.), transforms_pipeline(codec, flip=1.)):
        data = model.data_preprocessor(read_pairs(street, pipeline), True)
        torch.manual_seed(3)
        losses.append(model(**data, mode='loss'))
    assert losses[0] == losses[1]
    assert losses[0].keys() == {'loss_flow', 'loss_one_step'}


@pytest.mark.parametrize('pipeline', [train_pipeline(), transforms_pipeline()],
                         ids=['stock', 'transforms'])
def test_both_pipelines_draw_from_one_distribution(street, pipeline, monkeypatch):
    model = build()
    _, found, labels = seen_by_the_loss(
        model, read_pairs(street, pipeline), monkeypatch)
    codec = model.semflow.codec
    noise = (found + 1) * 127.5 - codec.encode(labels)
    assert noise.abs().max() <= 6.001
    # The Kolmogorov bound at 13824 draws for a probability of 1e-6.
    assert noise.numel() == 13824
    grid = torch.linspace(-5.5, 5.5, 23)
    empirical = (noise.flatten() <= grid[:, None]).float().mean(1)
    assert (empirical - (grid + 6) / 12).abs().max() < 0.0229
    assert noise.flatten(1).unique(dim=0).shape[0] == 6


@pytest.mark.parametrize('pipeline', [train_pipeline(), transforms_pipeline()],
                         ids=['stock', 'transforms'])
def test_a_wrong_label_names_its_file(street, pipeline):
    path = street / 'ann_dir/train/3.png'
    labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    labels[7, 9:11] = 5, 77
    cv2.imwrite(str(path), labels)
    with pytest.raises(ValueError, match=f'^{path} has the labels '
                       r'\[5, 77\]: .* num_classes=5 or 255'):
        build().data_preprocessor(read_pairs(street, pipeline), True)


def test_labels_of_a_test_are_not_looked_at():
    data = training_data()
    data['data_samples'][0].gt_sem_seg.data[:] = 77
    build().data_preprocessor(data, False)


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
    pseudo_mask = model.predict_map(inputs)
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


def test_time_augmentation_averages_flips():
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
    """Below a tenth of the logits of all classes at 512 x 1024."""
    codec = dict(num_classes=171, divisions=6, spacing=50)
    model = build(codec=codec)
    monkeypatch.setattr(model, 'predict_map', lambda inputs: inputs)
    inputs = torch.rand(1, 3, 64, 128) * 2 - 1
    shape = (512, 1024)
    with torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU],
            profile_memory=True) as profile:
        model.predict(inputs, [sample((64, 128), ori_shape=shape)])
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
    with pytest.raises(ValueError, match="by the codec of the model, .*: 6.*, but "
                       "the data were made by .*'amplitude': 3"):
        model(**data, mode='loss')
