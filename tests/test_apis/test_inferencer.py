"""Both directions from Python."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.apis import inference_model, init_model
from PIL import ExifTags, Image

from mmseg_semflow.apis import SemFlowInferencer, load_model
from mmseg_semflow.apis.checkpoint_conversion import checkpoint_to_folder
from mmseg_semflow.export.graph import export_segmentor
from mmseg_semflow.export.pipeline import SemFlowPipeline
from mmseg_semflow.synthesis import Synthesizer
from tiny import (
    CODEC,
    META,
    process_cfg,
    runner_cfg,
    save_checkpoint,
    save_old_checkpoint,
    segmentor_cfg,
)


@pytest.fixture(scope='module')
def inferencer(shared_files):
    """One for all tests that leave it as it is."""
    return SemFlowInferencer(*shared_files, device='cpu')


@pytest.fixture(scope='module')
def image(shared_files):
    return str(Path(shared_files[0]).parent / 'street/img_dir/val/0.jpg')


@pytest.fixture(scope='module')
def masks(shared_files):
    return sorted((Path(shared_files[0]).parent / 'street/ann_dir/train').iterdir())


def labels_of(mask):
    return cv2.imread(str(mask), cv2.IMREAD_UNCHANGED)


def test_segment_equals_mmseg(shared_files, inferencer, image):
    model = init_model(*shared_files, device='cpu')
    expected = inference_model(model, image).pred_sem_seg.data[0].numpy()
    np.testing.assert_array_equal(inferencer.segment(image), expected)
    array = cv2.imread(image)
    np.testing.assert_array_equal(inferencer.segment(array), expected)
    rgb = SemFlowInferencer(*shared_files, device='cpu', channel_order='rgb')
    np.testing.assert_array_equal(rgb.segment(array[..., ::-1]), expected)
    many = inferencer.segment([image, array], return_datasamples=True)
    for sample in many:
        np.testing.assert_array_equal(sample.pred_sem_seg.data[0], expected)
    assert inferencer.classes == META['classes']
    assert inferencer.palette == META['palette']


def test_the_pipeline_is_that_of_the_test_loader(shared_files, inferencer, image):
    """As in mmsegmentation's tools/test.py."""
    cfg = Config.fromfile(shared_files[0])
    cfg.test_dataloader.dataset.pipeline.insert(
        1, dict(type='Resize', scale=(16, 12), keep_ratio=False))
    cfg.test_dataloader = dict(
        dataset=dict(type='ConcatDataset', datasets=[cfg.test_dataloader.dataset]))
    before = cfg.to_dict()
    small = SemFlowInferencer(cfg, shared_files[1], device='cpu')
    found = small.segment(image, return_datasamples=True)
    assert found.img_shape == (12, 16) and found.ori_shape == (24, 32)
    assert small.segment(image).shape == (24, 32)
    assert (small.segment(image) != inferencer.segment(image)).any()
    assert cfg.to_dict() == before
    cfg.pop('test_dataloader')
    other = SemFlowInferencer(cfg, shared_files[1], device='cpu')
    np.testing.assert_array_equal(other.segment(image), inferencer.segment(image))


@pytest.fixture
def turned(image, tmp_path):
    """A picture whose EXIF says that it lies on its side, as file, PIL and array."""
    path = tmp_path / 'turned.png'
    with Image.open(image) as picture:
        exif = picture.getexif()
        exif[ExifTags.Base.Orientation] = 6
        picture.save(path, exif=exif)
    return path, Image.open(path), np.rot90(cv2.imread(image), -1)


def test_exif_turns_pictures_of_pil_as_it_turns_files(inferencer, exported, turned):
    for source in (inferencer, SemFlowInferencer(exported)):
        of_file, of_pil, of_array = source.segment(list(turned))
        assert of_file.shape == (32, 24) and len(np.unique(of_file)) > 1
        np.testing.assert_array_equal(of_pil, of_file)
        np.testing.assert_array_equal(of_array, of_file)
    np.testing.assert_array_equal(*(
        inferencer.trajectory(image=image, num_steps=2) for image in turned[:2]))


def test_steps_and_solver_of_one_call(inferencer, image):
    before = inferencer.segment(image)
    other = inferencer.segment(image, num_steps=5, solver='heun')
    assert (other != before).any()
    np.testing.assert_array_equal(inferencer.segment(image), before)
    with pytest.raises(ValueError, match='num_steps must be .* but got 0'):
        inferencer.segment(image, num_steps=0)
    np.testing.assert_array_equal(inferencer.segment(image), before)


def test_synthesize_equals_the_synthesizer(shared_files, inferencer, masks):
    labels = labels_of(masks[0])
    found = inferencer.synthesize(
        masks[0], num_samples=2, seed=4, num_steps=3)
    synthesizer = Synthesizer(
        inferencer.semflow, 3, num_samples=2, seed=4)
    expected = synthesizer(torch.from_numpy(labels).long())
    expected = expected.permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(found, expected[..., ::-1])
    rgb = SemFlowInferencer(*shared_files, device='cpu', channel_order='rgb')
    found = rgb.synthesize([labels], num_samples=2, seed=4, num_steps=3)
    assert isinstance(found, list)
    np.testing.assert_array_equal(found[0], expected)


@pytest.fixture
def batches(inferencer, monkeypatch):
    """Collect what the network sees of each call."""
    shapes = []
    transport = inferencer.semflow.transport

    def listen(pixels, *args, **kwargs):
        shapes.append(tuple(pixels.shape[::2]))
        return transport(pixels, *args, **kwargs)

    monkeypatch.setattr(inferencer.semflow, 'transport', listen)
    return shapes


def test_synthesis_in_batches_of_one_size(inferencer, masks, batches):
    """Samples of several masks share a batch; every mask gets its own."""
    small = labels_of(masks[1])[:8]
    given = [masks[0], small, masks[2]]
    how = dict(num_samples=3, num_steps=2)
    alone = inferencer.synthesize(given, **how)
    assert batches == [(1, 24)] * 3 + [(1, 8)] * 3 + [(1, 24)] * 3
    batches.clear()
    together = inferencer.synthesize(given, batch_size=4, **how)
    assert sorted(batches) == [(2, 24), (3, 8), (4, 24)]
    for one, other in zip(alone, together, strict=True):
        assert one.shape == other.shape
        assert np.abs(one.astype(int) - other).max() <= 1
    with pytest.raises(ValueError, match="batch_size must be 1 for 'dopri5'"):
        inferencer.synthesize(given, batch_size=2, solver='dopri5')


def test_trajectory_of_both_directions(inferencer, masks, image):
    pixels = cv2.imread(image)
    there = inferencer.trajectory(image=pixels, num_steps=3)
    assert there.shape == (4, *pixels.shape)
    np.testing.assert_array_equal(there[0], pixels)
    back = inferencer.trajectory(mask=masks[0], num_steps=3, seed=2)
    made = inferencer.synthesize(masks[0], num_steps=3, seed=2)
    np.testing.assert_array_equal(back[-1], made[0])
    with pytest.raises(ValueError, match='either an image or a mask'):
        inferencer.trajectory()


def test_trajectory_in_bfloat16_ends_where_the_samples_are(inferencer, masks):
    how = dict(num_steps=3, dtype='bfloat16')
    made = inferencer.synthesize(masks[0], **how)[0]
    np.testing.assert_array_equal(
        inferencer.trajectory(mask=masks[0], **how)[-1], made)
    assert (inferencer.synthesize(masks[0], num_steps=3)[0] != made).any()


def test_defaults_of_the_config(files, masks):
    Path(files[0]).write_text(
        Path(files[0]).read_text() + '\nsynthesis = dict(num_steps=3, size=(6, 8))\n')
    inferencer = SemFlowInferencer(*files, device='cpu')
    assert inferencer.synthesizer().num_steps == 3
    assert inferencer.synthesizer(num_steps=7).num_steps == 7
    assert inferencer.synthesizer(tile_size=(8, 8)).size is None
    assert inferencer.synthesize(masks[0]).shape == (1, 6, 8, 3)


def test_the_style_of_the_config_gives_way_to_pictures(files, image):
    style = dict(
        type='LatentStatistics', mean=[0.] * 12, std=[1.] * 12, strength=0.5)
    Path(files[0]).write_text(
        Path(files[0]).read_text() + f'\nsynthesis = dict(style={style})\n')
    inferencer = SemFlowInferencer(*files, device='cpu')
    own = inferencer.styled_synthesizer()[0].style
    assert own.strength == 0.5 and own.std.tolist() == [1.] * 12
    assert inferencer.styled_synthesizer(image, 0.7)[0].style.strength == 0.7
    assert inferencer.synthesizer(style=None).style is None
    # Not that of the config's style.
    with pytest.raises(ValueError, match='needs the pictures .*, but got 0.3 alone'):
        inferencer.styled_synthesizer(strength=0.3)


@pytest.mark.parametrize('name', ['symmflow', 'bbdm', 'bbdm_segmentor', 'dsm'])
def test_every_process_goes_its_way(tmp_path, image, masks, name):
    of_process = process_cfg(name)
    cfg = runner_cfg(tmp_path, tmp_path, model=segmentor_cfg(**of_process))
    cfg.test_pipeline = cfg.test_dataloader.dataset.pipeline
    save_checkpoint(tmp_path / 'model.pth', **of_process)
    if name == 'bbdm':
        # It is no segmentor, but a generator for mmagic.
        with pytest.raises(ValueError, match='mask_to_image alone, but SemFlow'):
            SemFlowInferencer(cfg, tmp_path / 'model.pth', 'cpu')
        return
    inferencer = SemFlowInferencer(cfg, tmp_path / 'model.pth', 'cpu')
    found = inferencer.segment(image)
    np.testing.assert_array_equal(inferencer.segment(image), found)
    assert len(np.unique(found)) > 1
    if name == 'symmflow':
        one, other = inferencer.synthesize(masks[0], num_samples=2, num_steps=2)
        assert (one != other).any()
    else:
        with pytest.raises(ValueError, match='image_to_mask alone'):
            inferencer.synthesize(masks[0], num_steps=2, solver=None)


def test_checkpoint_of_the_first_version(tmp_path, image):
    """It segments as a model that is filled by hand."""
    cfg = runner_cfg(tmp_path, tmp_path)
    cfg.model.semflow = save_old_checkpoint(tmp_path / 'old.pth')
    cfg.test_pipeline = cfg.test_dataloader.dataset.pipeline
    model = load_model(cfg, tmp_path / 'old.pth', 'cpu')
    old = torch.load(tmp_path / 'old.pth', weights_only=True)['state_dict']
    key = 'unet.conv_in.weight'
    assert torch.equal(model.state_dict()[f'semflow.network.{key}'],
                       old[f'semflow.velocity_net.{key}'])
    found = SemFlowInferencer(cfg, tmp_path / 'old.pth', 'cpu').segment(image)
    expected = inference_model(model, cv2.imread(image)).pred_sem_seg.data[0]
    np.testing.assert_array_equal(found, expected.numpy())


def test_checkpoint_of_another_codec(shared_files, tmp_path):
    save_checkpoint(tmp_path / 'other.pth', codec=dict(CODEC, spacing=150))
    with pytest.raises(ValueError, match='codec with other anchors'):
        SemFlowInferencer(shared_files[0], tmp_path / 'other.pth', device='cpu')


def test_config_of_another_model(shared_files, tmp_path):
    (tmp_path / 'other.py').write_text("model = dict(type='FCN')\n")
    with pytest.raises(ValueError, match="other.py is no config of SemFlow"):
        SemFlowInferencer(tmp_path / 'other.py', shared_files[1])


def test_unknown_order_of_channels(shared_files):
    with pytest.raises(ValueError, match="'bgr' or 'rgb', but got 'hsv'"):
        SemFlowInferencer(*shared_files, channel_order='hsv')


def test_unreadable_files_are_all_named(inferencer, image, tmp_path):
    for name in 'ab':
        (tmp_path / f'{name}.jpg').write_bytes(b'broken')
    given = [tmp_path / 'a.jpg', image, tmp_path / 'b.jpg']
    with pytest.raises(ValueError, match='a.jpg cannot be read.*b.jpg cannot be'):
        inferencer.segment(given)
    with pytest.raises(ValueError, match='a.jpg cannot be read.*b.jpg cannot be'):
        inferencer.synthesize(given[::2])
    with pytest.raises(ValueError, match=r'uint8 of shape .* got uint8 of \(4, 4\)'):
        inferencer.segment(np.zeros((4, 4), np.uint8))


def test_segment_beside_a_generator(inferencer, image):
    """Whatever scope is the default by then."""
    before = inferencer.segment(image)
    init_default_scope('mmdet')
    np.testing.assert_array_equal(inferencer.segment(image), before)


def test_a_generator_only_synthesises(shared_files, masks, image):
    pytest.importorskip('mmagic')
    import mmseg_semflow.models.generators  # noqa: F401
    cfg = Config.fromfile(shared_files[0])
    cfg.default_scope = 'mmagic'
    cfg.model = dict(type='SemFlowGenerator', semflow=cfg.model.semflow)
    inferencer = SemFlowInferencer(cfg, shared_files[1], device='cpu')
    segmentor = SemFlowInferencer(*shared_files, device='cpu')
    np.testing.assert_array_equal(
        inferencer.synthesize(masks[0], num_steps=2),
        segmentor.synthesize(masks[0], num_steps=2))
    with pytest.raises(ValueError, match="segment needs .* got SemFlowGenerator"):
        inferencer.segment(image)


def test_labels_of_a_dataset_with_a_zero_label(inferencer, masks, monkeypatch):
    monkeypatch.setitem(
        inferencer.model.dataset_meta, 'reduce_zero_label', True)
    labels = labels_of(masks[0])
    expected = np.where(labels == 0, 255, labels - 1 + (labels == 255))
    assert (inferencer.read(masks[0]).numpy() == expected).all()
    assert (inferencer.read(labels).numpy() == labels).all()


@pytest.fixture(scope='module')
def exported(shared_files, tmp_path_factory):
    """The segmentor as an ONNX file."""
    pytest.importorskip('onnxscript')
    pytest.importorskip('onnxruntime')
    root = tmp_path_factory.mktemp('exported')
    checkpoint_to_folder(*shared_files, root / 'folder')
    export_segmentor(
        SemFlowPipeline.from_pretrained(root / 'folder'), root / 'street.onnx')
    return root / 'street.onnx'


def test_an_exported_file_segments_as_its_checkpoint(
        shared_files, exported, inferencer, image):
    expected = inferencer.segment(image)
    assert len(np.unique(expected)) > 1
    array = cv2.imread(image)
    for given in ((exported, ), (shared_files[0], str(exported))):
        alone = SemFlowInferencer(*given)
        for found in (alone.segment(image), *alone.segment([image, array])):
            # But for ties.
            assert (found != expected).sum() <= 1
        assert alone.classes == META['classes']
        assert alone.palette == META['palette']
    rgb = SemFlowInferencer(exported, channel_order='rgb')
    assert (rgb.segment(array[..., ::-1]) != expected).sum() <= 1


def test_what_an_exported_file_does_not_hold(exported, image, masks, tmp_path):
    inferencer = SemFlowInferencer(exported)
    needs = 'street.onnx holds the segmentation alone: .* the config and the checkpoint'
    for use in (lambda: inferencer.synthesize(masks[0]),
                lambda: inferencer.trajectory(image=image),
                lambda: inferencer.styled_synthesizer(image),
                lambda: inferencer.read(masks[0]), lambda: inferencer.model):
        with pytest.raises(ValueError, match=needs):
            use()
    with pytest.raises(ValueError, match='street.onnx was exported with num_steps=2, '
                       'but got 7'):
        inferencer.segment(image, num_steps=7)
    with pytest.raises(ValueError, match='street.onnx gives labels, and no datasample'):
        inferencer.segment(image, return_datasamples=True)
    (tmp_path / 'a.jpg').write_bytes(b'broken')
    with pytest.raises(ValueError, match='a.jpg cannot be read'):
        inferencer.segment([image, tmp_path / 'a.jpg'])


def test_an_exported_file_in_another_place(shared_files, exported):
    config, checkpoint = shared_files
    with pytest.raises(ValueError, match='needs a checkpoint, .*config.py and None'):
        SemFlowInferencer(config)
    with pytest.raises(ValueError, match='stands alone .*street.onnx and .*model.pth'):
        SemFlowInferencer(exported, checkpoint)
    with pytest.raises(ValueError, match="device must be None for .*street.onnx, but "
                       "got 'cpu'"):
        SemFlowInferencer(exported, device='cpu')
    with pytest.raises(ValueError, match='providers are for an ONNX file, but .*pth '):
        SemFlowInferencer(config, checkpoint, providers=['CPUExecutionProvider'])
    with pytest.raises(ValueError, match="CPUExecutionProvider, but got .'NPUProvider"):
        SemFlowInferencer(exported, providers=['NPUProvider'])


@pytest.mark.parametrize('key, change', [
    ('spacing', lambda cfg: cfg.model.semflow.codec.update(spacing=150)),
    ('num_classes', lambda cfg: cfg.model.semflow.codec.update(num_classes=4)),
    ('classes', lambda cfg: cfg.test_dataloader.dataset.metainfo.update(
        classes=('e', 'd', 'c', 'b', 'a')))
])
def test_an_exported_file_of_another_codec(shared_files, exported, key, change):
    cfg = Config.fromfile(shared_files[0])
    change(cfg)
    with pytest.raises(ValueError, match=f'street.onnx was exported with {key}=.*, but '
                       f'.*config.py has {key}='):
        SemFlowInferencer(cfg, exported)
