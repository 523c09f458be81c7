"""What the authors' code writes, through the shipped recipe and every tool."""

from importlib.util import find_spec
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from mmseg.apis import MMSegInferencer
from mmseg.registry import TRANSFORMS
from mmseg.utils import get_classes
from PIL import Image
from shipped import COMPARED, SHORT_NAMES, load, on_disk, read, shrink
from tool_calls import call_tool  # noqa: F401

from layouts import LAYOUTS
from mmseg_semflow.apis import SemFlowInferencer
from mmseg_semflow.apis import checkpoint_conversion as conversion
from mmseg_semflow.apis.loading import meta_of_dataset
from mmseg_semflow.datasets.celebamask_hq import CelebAMaskHQDataset
from mmseg_semflow.safe_loading import load_from_local
from tiny import RELEASED, UNET, VAE, write_sd_folder

FACES = CelebAMaskHQDataset.METAINFO


@pytest.mark.parametrize('name', [*SHORT_NAMES, *COMPARED])
def test_every_config_tells_its_classes(name):
    """As a checkpoint without them needs it; and no file is read."""
    cfg = read(name)
    meta = meta_of_dataset(cfg)
    head = cfg.model.get('decode_head', {})
    count = cfg.codec.num_classes if 'codec' in cfg else head.get('num_classes')
    assert len(meta['classes']) == len(meta['palette'])
    assert count in (None, len(meta['classes']))
    if 'cityscapes' in name:
        assert list(meta['classes']) == get_classes('cityscapes')
    if 'celebamask' in name:
        assert meta['classes'] == FACES['classes']


def test_classes_that_a_config_chooses():
    cfg = load('semflow_celebamask_hq')
    cfg.test_dataloader.dataset.metainfo = dict(classes=('hair', 'nose'))
    assert meta_of_dataset(cfg)['classes'] == ('hair', 'nose')
    assert meta_of_dataset(cfg)['palette'] == [[0, 0, 204], [76, 153, 0]]
    cfg.test_dataloader.dataset = dict(
        type='OneOfMany', dataset=cfg.test_dataloader.dataset)
    assert meta_of_dataset(cfg)['classes'] == ('hair', 'nose')
    cfg.test_dataloader.dataset = dict(
        type='ConcatDataset', datasets=[cfg.test_dataloader.dataset.dataset] * 2)
    assert meta_of_dataset(cfg)['classes'] == ('hair', 'nose')
    # Asks for its files when it is built.
    cfg.test_dataloader.dataset = dict(type='PascalVOCDataset', ann_file='none.txt')
    assert len(meta_of_dataset(cfg)['classes']) == 21
    cfg.pop('test_dataloader')
    assert meta_of_dataset(cfg) == {}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Faces, Stable Diffusion and the authors' UNet, all tiny; the recipe."""
    folder = tmp_path_factory.mktemp('released')
    torch.manual_seed(0)
    LAYOUTS['celebamask_hq'](folder / 'data')
    write_sd_folder(folder / 'sd', unet=UNET, vae=VAE)
    weights = UNet2DConditionModel(**UNET).state_dict()
    for name, write in RELEASED.items():
        write(weights, folder / name)
    for short in ('semflow_celebamask_hq_released', 'semflow_celebamask_hq',
                  'semflow_generator_celebamask_hq'):
        if 'generator' in short and not find_spec('mmagic'):
            continue
        cfg = shrink(load(short))
        on_disk(cfg, folder / 'data', folder / 'work')
        cfg.model.test_cfg.num_steps = 1
        cfg.synthesis.update(num_steps=1, size=(32, 64))
        if 'generator' in short:
            cfg.model.semflow.codec.amplitude = 6.375
        cfg.log_level = 'INFO'
        cfg.test_pipeline = cfg.test_dataloader.dataset.pipeline
        cfg.experiment_name = cfg.visualizer.name = short
        cfg.dump(folder / f'{short}.py')
    return folder


def convert(folder, name, out):
    conversion.released_to_checkpoint(
        folder / 'semflow_celebamask_hq_released.py', folder / name, out,
        folder / 'sd')
    return load_from_local(out)


@pytest.fixture(scope='module')
def checkpoint(folder):
    convert(folder, 'face.pt', folder / 'face.pth')
    return folder / 'face.pth'


@pytest.mark.parametrize('name', RELEASED)
def test_each_file_becomes_a_checkpoint(folder, name, tmp_path):
    converted = convert(folder, name, tmp_path / 'face.pth')
    assert converted['meta']['dataset_meta'] == {
        key: FACES[key] for key in ('classes', 'palette')}
    assert converted['state_dict']['semflow.codec.noise_level'] == 6.375


def test_the_amplitude_of_their_training(folder, tmp_path):
    config = folder / 'semflow_celebamask_hq.py'
    arguments = (config, folder / 'face.pt', tmp_path / 'out', folder / 'sd')
    with pytest.raises(ValueError, match=(
            r'amplitude of 6.375 .*amplitude=6, .*hq_released.py .*--amplitude')):
        conversion.released_to_checkpoint(*arguments)
    assert not (tmp_path / 'out').exists()
    conversion.released_to_checkpoint(*arguments, amplitude=6)
    state_dict = load_from_local(tmp_path / 'out')['state_dict']
    assert state_dict['semflow.codec.noise_level'] == 6


def test_the_recipe_is_their_training():
    """No clipping, no swap of left and right; all else is the paper's."""
    cfg, paper = load('semflow_celebamask_hq_released'), load('semflow_celebamask_hq')
    assert cfg.optim_wrapper.pop('clip_grad') is None
    assert paper.optim_wrapper.pop('clip_grad') == dict(max_norm=1.)
    assert cfg.optim_wrapper == paper.optim_wrapper
    assert cfg.model.semflow.codec.pop('amplitude') == 6.375
    paper.model.semflow.codec.pop('amplitude')
    assert cfg.model == paper.model
    pipelines = [c.train_dataloader.dataset.pipeline for c in (cfg, paper)]
    assert pipelines[1][4].pop('swap_seg_labels') == [(4, 5), (6, 7), (8, 9)]
    assert pipelines[0] == pipelines[1]


def test_every_tool(folder, checkpoint, call_tool, monkeypatch, tmp_path):  # noqa: F811
    """Those of the README, on the converted checkpoint."""
    monkeypatch.chdir(tmp_path)
    config = folder / 'semflow_celebamask_hq_released.py'
    image, mask = folder / 'data/img_dir/6.jpg', folder / 'data/ann_dir/6.png'
    said = call_tool(
        'test.py', config, checkpoint, '--show-dir', 'shown', '--out', 'labels',
        '--work-dir', 'work')
    for name in FACES['classes']:
        assert f' {name} ' in said, name
    assert len(list(Path('shown').rglob('*.png'))) == 3
    assert len(list(Path('labels').glob('*.png'))) == 3
    call_tool('synthesize.py', config, checkpoint, '--masks', mask.parent,
              '--out', 'images', '--num-samples', 2)
    assert len(list(Path('images').glob('*.png'))) == 18
    call_tool('sweep_steps.py', config, checkpoint, '--steps', 1, '--solvers',
              'euler', '--num-images', 2, '--out', 'sweep')
    assert 'mIoU' in Path('sweep/sweep.md').read_text()
    call_tool('visualize_trajectory.py', config, checkpoint, '--image', image,
              '--mask', mask, '--out', 'strips')
    assert any(Path('strips').rglob('*.gif'))
    pytest.importorskip('mmagic')
    call_tool('compare.py', config, checkpoint, '--steps', 1, '--num-images', 1,
              '--out', 'compared')
    assert 'released' in Path('compared/comparison.md').read_text()
    call_tool('test.py', folder / 'semflow_generator_celebamask_hq.py',
              checkpoint, '--work-dir', 'generator')


def test_there_and_back(folder, checkpoint, call_tool, tmp_path):  # noqa: F811
    config = folder / 'semflow_celebamask_hq_released.py'
    call_tool('model_converters/semflow2diffusers.py', config, checkpoint,
              tmp_path / 'folder')
    call_tool('model_converters/diffusers2semflow.py', config,
              tmp_path / 'folder', tmp_path / 'back.pth')
    back = load_from_local(tmp_path / 'back.pth')
    assert back['meta'] == load_from_local(checkpoint)['meta']


def test_the_inferencers_know_faces(folder, checkpoint, tmp_path):
    config = str(folder / 'semflow_celebamask_hq_released.py')
    image = str(folder / 'data/img_dir/6.jpg')
    ours = SemFlowInferencer(config, str(checkpoint), 'cpu')
    assert ours.classes == FACES['classes'] and ours.palette == FACES['palette']
    theirs = MMSegInferencer(config, str(checkpoint), device='cpu')
    assert theirs.model.dataset_meta['classes'] == FACES['classes']
    found = theirs(image, show=False)['predictions']
    assert np.array_equal(found, ours.segment(image))


@pytest.mark.parametrize('name, size', [
    ('cityscapes', (512, 1024)), ('celebamask_hq', (512, 512)),
    ('coco_stuff164k', (512, 512))])
def test_images_are_resized_as_theirs(name, size, tmp_path):
    """By Pillow, bicubic, which reaches the images alone."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (700, 1100, 3), np.uint8)
    labels = rng.choice([0, 7, 18, 255], (700, 1100)).astype(np.uint8)
    cfg = load(f'semflow_{name}')
    for pipeline in (cfg.train_pipeline, cfg.test_pipeline):
        found = dict(img=pixels.copy(), seg_fields=[])
        for transform in pipeline:
            if transform['type'] == 'LoadAnnotations':
                found.update(gt_seg_map=labels.copy(), seg_fields=['gt_seg_map'])
            elif transform['type'] == 'Resize':
                found = TRANSFORMS.build(transform)(found)
        height, width = found['img'].shape[:2]
        if pipeline is cfg.test_pipeline:
            assert (height, width) == size
        expected = Image.fromarray(pixels).resize((width, height), Image.BICUBIC)
        assert np.array_equal(found['img'], np.asarray(expected))
        # Labels by nearest as ever, where they are resized at all.
        nearest = labels if pipeline is cfg.test_pipeline else mmcv.imresize(
            labels, (width, height), interpolation='nearest')
        assert np.array_equal(found['gt_seg_map'], nearest)
