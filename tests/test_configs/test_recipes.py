"""The paper's recipes: settings, and a run on folders in the real layouts."""

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmseg.registry import DATASETS, TRANSFORMS
from shipped import ROOT, factor, load, read, small

from layouts import LAYOUTS
from mmseg_semflow.apis.latent_cache import cache_latents
from mmseg_semflow.flow import PseudoMaskCodec
from tiny import EIGHTFOLD_VAE, VAE, run_test, write_sd_folder

# Of the paper: classes, total batch on 8 GPUs, iterations, rate, warm-up.
RECIPES = dict(
    cityscapes=(19, 256, 8000, 5e-5, 500),
    coco_stuff164k=(171, 128, 320000, 1e-5, 10000),
    celebamask_hq=(19, 256, 80000, 2e-5, 500))
recipes = pytest.mark.parametrize('name', RECIPES)


@pytest.fixture(autouse=True)
def _no_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))


@recipes
def test_settings_are_those_of_the_paper(name):
    num_classes, batch_size, max_iters, rate, warmup = RECIPES[name]
    cfg = read(f'semflow_{name}')
    semflow = cfg.model.semflow
    assert semflow.codec == dict(
        num_classes=num_classes, divisions=6, spacing=50, amplitude=6)
    # Neither process nor losses nor wrappers other than the model's own, which
    # are the paper's.
    assert semflow.keys() == {'type', 'network', 'autoencoder', 'codec'}
    assert 8 * cfg.train_dataloader.batch_size == batch_size
    assert cfg.train_cfg.max_iters == max_iters
    assert cfg.optim_wrapper.optimizer == dict(
        type='AdamW', lr=rate, betas=(0.9, 0.999), weight_decay=0.01)
    assert cfg.optim_wrapper.clip_grad == dict(max_norm=1.)
    assert cfg.warmup_iters == warmup
    half = cfg.optim_wrapper.get('dtype')
    assert half == (None if name == 'coco_stuff164k' else 'bfloat16')
    assert cfg.model.test_cfg == dict(
        mode='whole', num_steps=25, solver='euler')


def test_recipes_share_one_model():
    first, *others = (read(f'semflow_{name}').model for name in RECIPES)
    for model in others:
        for part in ('network', 'autoencoder'):
            assert model.semflow[part] == first.semflow[part]


def test_constant_rate_after_the_warm_up():
    parts = read('_base_/schedules/semflow_320k').param_scheduler
    for i in range(0, 320000, 77):
        assert factor(parts, i) == pytest.approx(min(i / 10000, 1), abs=2e-6)


def test_anchors_of_171_classes_are_digits_times_the_spacing():
    levels = PseudoMaskCodec(**read('semflow_coco_stuff164k').codec).levels
    digits = [(c // 36, c // 6 % 6, c % 6) for c in range(171)]
    assert torch.equal(levels, 50 * torch.tensor(digits, dtype=levels.dtype))


@pytest.mark.parametrize('name, size', [('cityscapes', (512, 1024)),
                                        ('coco_stuff164k', (512, 512)),
                                        ('celebamask_hq', (512, 512))])
def test_size_of_the_pictures(name, size, tmp_path):
    LAYOUTS[name](tmp_path)
    cfg = load(f'semflow_{name}')
    for split in ('train', 'test'):
        dataset_cfg = cfg[f'{split}_dataloader'].dataset
        dataset_cfg.data_root = str(tmp_path)
        dataset = DATASETS.build(dataset_cfg)
        assert len(dataset) == 3
        for item in dataset:
            assert item['inputs'].shape == (3, *size)
            labels = item['data_samples'].gt_sem_seg
            own = item['data_samples'].ori_shape
            assert labels.shape == (own if split == 'test' else size)


@recipes
def test_segmentor_trains_validates_and_tests(name, tmp_path):
    LAYOUTS[name](tmp_path / 'data')
    cfg = small(load(f'semflow_{name}'), tmp_path / 'data', tmp_path / 'work')
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert 0 <= runner.test()['mIoU'] <= 100
    assert (tmp_path / 'work/iter_1.pth').is_file()


@recipes
def test_generator_trains_and_tests(name, tmp_path):
    pytest.importorskip('mmagic')
    LAYOUTS[name](tmp_path / 'data')
    cfg = small(
        load(f'semflow_generator_{name}'), tmp_path / 'data', tmp_path / 'work')
    cfg.model.test_cfg.update(num_samples=2, segment_steps=1)
    cfg.train_cfg.val_begin = 2
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert {'diversity', 'mask_mIoU'} <= run_test(runner).keys()


@pytest.mark.parametrize('name', ['cityscapes', 'celebamask_hq'])
def test_a_cached_recipe_trains_from_its_cache(name, tmp_path, monkeypatch):
    LAYOUTS[name](tmp_path / 'data')
    cfg = small(
        load(f'semflow_{name}_cached'), tmp_path / 'data', tmp_path / 'work')
    # Of the same weights, when they are cached and in training.
    semflow = cfg.model.semflow
    folder = write_sd_folder(
        tmp_path / 'sd', unet=semflow.network.unet, vae=VAE)
    semflow.network.sd_folder = semflow.autoencoder.sd_folder = str(folder)
    monkeypatch.chdir(tmp_path)
    cache_latents(cfg, num_draws=1, device='cpu')
    assert (tmp_path / f'data/latents/{name}/key.json').is_file()
    cfg.custom_hooks = cfg.custom_hooks[:1]
    cfg.train_cfg.val_begin = 2
    runner = Runner.from_cfg(cfg)
    # Nothing is encoded any more.
    monkeypatch.delattr(type(runner.model.semflow.autoencoder), 'encode')
    runner.train()
    assert runner.message_hub.get_scalar('train/loss').current() > 0


def test_pictures_may_keep_their_ratio(tmp_path):
    """The page's config, on 47 x 32 and the like: not all fit the VAE."""
    page = (ROOT / 'docs/datasets/coco_stuff164k.md').read_text()
    text = page.split('```python\n')[1].split('```')[0]
    (tmp_path / 'config.py').write_text(
        text.replace("'./", f"'{ROOT}/configs/"))
    LAYOUTS['coco_stuff164k'](tmp_path / 'data')
    cfg = small(
        Config.fromfile(tmp_path / 'config.py'), tmp_path / 'data',
        tmp_path / 'work')
    assert cfg.test_dataloader.dataset.pipeline[1].keep_ratio
    cfg.model.semflow.autoencoder.vae = EIGHTFOLD_VAE
    assert 0 <= Runner.from_cfg(cfg).test()['mIoU'] <= 100


def faces():
    dataset = DATASETS.get('CelebAMaskHQDataset')
    return load('semflow_celebamask_hq'), dataset.METAINFO['classes']


def test_flip_of_a_face_swaps_left_and_right():
    cfg, classes = faces()
    flip_cfg = next(
        part for part in cfg.train_pipeline if part['type'] == 'RandomFlip')
    flip = TRANSFORMS.build(dict(flip_cfg, prob=1.))
    labels = np.arange(19, dtype=np.uint8)[None]
    results = flip(
        dict(
            img=np.zeros((1, 19, 3), np.uint8),
            gt_seg_map=labels.copy(),
            seg_fields=['gt_seg_map']))
    other = dict(l='r', r='l')
    parts = ('eye', 'brow', 'ear')
    expected = [
        classes.index(f'{other[name[0]]}{name[1:]}')
        if name[:2] in ('l_', 'r_') and name[2:] in parts else label
        for label, name in enumerate(classes)
    ]
    assert [label for label in range(19) if expected[label] != label
            ] == [4, 5, 6, 7, 8, 9]
    assert results['gt_seg_map'][0, ::-1].tolist() == expected


def test_faces_are_not_flipped_in_tests(tmp_path):
    """Test-time augmentation would average left eyes with right ones."""
    cfg, _ = faces()
    assert 'RandomFlip' not in str(cfg.tta_pipeline) + str(cfg.test_pipeline)
    generator = read('semflow_generator_celebamask_hq')
    assert generator.train_pipeline == cfg.train_pipeline
    LAYOUTS['celebamask_hq'](tmp_path / 'data')
    cfg = small(cfg, tmp_path / 'data', tmp_path / 'work')
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    for scale in cfg.tta_pipeline[1].transforms[0]:
        scale.scale = tuple(side // 16 for side in scale.scale)
    cfg.model = dict(cfg.tta_model, module=cfg.model)
    assert 0 <= Runner.from_cfg(cfg).test()['mIoU'] <= 100
