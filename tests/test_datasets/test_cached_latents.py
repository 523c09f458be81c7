"""Training from cached latents equals training from images."""

import copy
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from mmcv.transforms import Compose
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.registry import DATASETS, MODELS
from safetensors.torch import load_file, save_file

from mmseg_semflow.apis import latent_cache
from mmseg_semflow.apis.latent_cache import cache_latents
from mmseg_semflow.datasets import UnreadableImageError
from mmseg_semflow.datasets.cached_latents import LatentCache, TrainingViews
from mmseg_semflow.flow import PseudoMaskCodec, perturb, seeded_generator
from mmseg_semflow.safe_loading import load_from_local
from runs import quick_cfg
from tiny import (
    CODEC,
    PROCESSES,
    VAE,
    network_cfg,
    segmentor_cfg,
    train_pipeline,
    write_street,
)


def save_vae(folder):
    AutoencoderKL(**VAE).save_pretrained(folder / 'vae')
    return str(folder)


def config(root):
    """A config of a tiny Stable Diffusion autoencoder, 6 images of 24 x 32."""
    return quick_cfg(
        root / 'street',
        root / 'work',
        model=segmentor_cfg(
            network=network_cfg(channels=4),
            autoencoder=dict(
                type='KLAutoencoder', vae=VAE, sd_folder=str(root / 'sd'))))


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    """A folder of the images, the autoencoder and their cache."""
    root = tmp_path_factory.mktemp('written')
    write_street(root / 'street')
    torch.manual_seed(1)
    save_vae(root / 'sd')
    write(config(root), root / 'cache')
    return root


@pytest.fixture
def cfg(written, tmp_path):
    for name in ('street', 'sd'):
        shutil.copytree(written / name, tmp_path / name)
    return config(tmp_path)


@pytest.fixture
def street(tmp_path, cfg):
    return tmp_path / 'street'


@pytest.fixture
def cache(written, tmp_path):
    """Its cache: 3 files of 2 images, 2 flips, 3 draws."""
    return str(shutil.copytree(written / 'cache', tmp_path / 'cache'))


def write(cfg, out, **kwargs):
    return cache_latents(
        cfg, out, **{'num_draws': 3, 'shard_size': 2, 'device': 'cpu', **kwargs})


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def cached(cfg, cache):
    dataset = cfg.train_dataloader.dataset
    return dict(type='CachedLatentsDataset', cache=str(cache), dataset=dataset)


def model_of(cfg, seed=0):
    torch.manual_seed(seed)
    model = MODELS.build(cfg.model)
    model.init_weights()
    torch.nn.init.normal_(model.semflow.network.unet.conv_out.weight)
    return model


def losses(model, samples):
    torch.manual_seed(7)
    batch = model.data_preprocessor(pseudo_collate(samples), True)
    return model(**batch, mode='loss')


def pseudo_masks(index, draw, label_map, codec=CODEC):
    """Colour labels (1, H, W) and perturb them as the cache does."""
    codec = PseudoMaskCodec(**codec)
    generator = seeded_generator(index, draw, label_map[0].to(torch.uint8))
    return perturb(codec.encode(label_map.long())[0], codec.amplitude, generator)


def drawn(pairs, index, flip, draw):
    """What the pipeline packs, with the pseudo mask of the cache."""
    item = pairs.items(index)[flip]
    sample = item['data_samples']
    levels = pseudo_masks(index, draw, sample.gt_sem_seg.data)
    sample.set_data(dict(gt_pseudo_mask=PixelData(data=levels)))
    return item


@pytest.mark.parametrize('options', [
    dict(),
    dict(losses=[
        dict(type='MatchingLoss', ignore_void=True), dict(type='OneStepMapLoss')
    ]),
    # A segmentor has no use for the bridge to images.
    *(dict(process=process, network=network_cfg(latents, channels=4))
      for name, (process, latents) in PROCESSES.items() if name != 'bbdm')
])
def test_the_loss_is_that_of_images(cfg, cache, options):
    cfg.model.semflow.update(options)
    model = model_of(cfg)
    pairs = TrainingViews(cfg.train_dataloader.dataset)
    dataset = DATASETS.build(cached(cfg, cache))
    assert len(dataset) == 6
    for batch in ([(0, 0, 0)], [(1, 1, 2), (5, 0, 1), (4, 1, 0)]):
        direct = losses(model, [drawn(pairs, *which) for which in batch])
        found = losses(model, [dataset.load(*which) for which in batch])
        assert direct.keys() == found.keys()
        for key, value in direct.items():
            assert torch.equal(found[key], value), key
    other = losses(model, [dataset.load(i, f, 1) for i, f, _ in batch])
    assert all(other[key] != value for key, value in found.items())


@pytest.mark.parametrize('flip', [False, True])
def test_pairs_are_those_of_the_pipeline(cfg, flip):
    pairs = TrainingViews(cfg.train_dataloader.dataset)
    info = pairs.dataset.get_data_info(2)
    expected = Compose(train_pipeline(flip=float(flip)))(info)
    found = pairs.items(2)
    assert len(found) == 2
    assert torch.equal(found[flip]['inputs'], expected['inputs'])
    assert torch.equal(found[flip]['data_samples'].gt_sem_seg.data,
                       expected['data_samples'].gt_sem_seg.data)


@pytest.mark.parametrize('flips', [True, False])
def test_draws_are_the_same_whatever_the_flips(cfg, tmp_path, flips):
    """Of patches, which are the pixels themselves."""
    cfg.model = segmentor_cfg()
    if not flips:
        del cfg.train_dataloader.dataset.pipeline[2]
    cache = write(cfg, tmp_path / 'patches', device='cpu')
    patches = MODELS.build(cfg.model.semflow.autoencoder)
    codec = PseudoMaskCodec(**CODEC)
    for index, draw in ((0, 0), (0, 2), (5, 1)):
        for flip in range(1 + flips):
            _, latent, label_map = cache.load(index, flip, draw)
            expected = pseudo_masks(index, draw, label_map[None])
            found = patches.decode(latent[None])[0]
            assert torch.equal(found, codec.normalize(expected))
            noise = expected - codec.encode(label_map[None].long())[0]
            assert 5 < noise.abs().max() <= 6
    first, second = (cache.load(0, 0, draw)[1] for draw in range(2))
    assert not torch.equal(first, second)


def test_the_key_tells_the_format(cfg, cache, tmp_path):
    path = tmp_path / 'cache/key.json'
    key = json.loads(path.read_text())
    assert key['format'] == 2
    assert key['codec'] == json.loads(json.dumps(PseudoMaskCodec(**CODEC).spec))
    # The first version perturbed otherwise.
    path.write_text(json.dumps(dict(key, format=1)))
    with pytest.raises(ValueError, match='format was 1 and is 2 now'):
        write(cfg, cache)


def test_training_neither_encodes_nor_reads_images(cfg, cache, street, tmp_path):
    cfg.train_dataloader.dataset = cached(cfg, cache)
    cfg.train_dataloader.num_workers = 1
    cfg.train_cfg.type = 'ResumableTrainLoop'
    runner = Runner.from_cfg(cfg)
    for path in (street / 'img_dir/train').iterdir():
        path.write_bytes(bytes(path.stat().st_size))
    encode, training = runner.model.semflow.autoencoder.encode, []
    runner.model.semflow.autoencoder.encode = lambda pixels: (
        training.append(runner.model.training), encode(pixels))[1]
    runner.train()
    assert training == [False] * 4
    saved = load_from_local(str(tmp_path / 'work/iter_4.pth'))
    assert saved['meta']['dataset_meta']['classes'] == tuple('abcde')


def test_flips_and_draws_are_drawn(cfg, cache, monkeypatch):
    for prob, flips in ((0.5, {0, 1}), (0., {0}), (1., {1})):
        cfg.train_dataloader.dataset.pipeline[2].prob = prob
        dataset = DATASETS.build(cached(cfg, cache))
        drawn = []
        monkeypatch.setattr(
            dataset, 'load', lambda *which, to=drawn: to.append(which))
        for _ in range(100):
            dataset[3]
        assert set(drawn) == {(3, f, k, 0, 0) for f in flips for k in range(3)}


def test_without_a_flip_in_the_pipeline(cfg, tmp_path):
    del cfg.train_dataloader.dataset.pipeline[2]
    write(cfg, tmp_path / 'cache', num_draws=1)
    dataset = DATASETS.build(cached(cfg, tmp_path / 'cache'))
    shapes = [part.shape for part in dataset.cache.load(5, 0, 0)]
    assert shapes == [(2, 4, 12, 16), (4, 12, 16), (24, 32)]
    with pytest.raises(IndexError):
        dataset.cache.load(5, 1, 0)
    assert dataset[0]['data_samples'].view == 0


def test_the_size_is_announced(cfg, tmp_path, capsys):
    cache = write(cfg, tmp_path / 'cache')
    size = 6 * 2 * (5 * 4 * 4 * 12 * 16 + 24 * 32)
    assert f'{size / 1e9:.3g} GB in {cache.folder}; {size / 1e9:.3g} GB are to' \
        in capsys.readouterr().out
    written = sum(path.stat().st_size for path in cache.shards)
    assert size < written < size + 3 * 1000
    write(cfg, tmp_path / 'cache')
    assert '; 0 GB are to be written' in capsys.readouterr().out


def killed(where, number, cfg, out):
    """Write a cache and die at a call of a function."""
    owner, name = dict(
        encode=(latent_cache.LatentWriter, 'encode'),
        fsync=(os, 'fsync'),
        replace=(os, 'replace'))[where]
    function, calls = getattr(owner, name), []

    def call(*args, **kwargs):
        calls.append(None)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    setattr(owner, name, call)
    write(cfg, out)


# The key is written before the first shard, each by two calls of fsync (file
# and folder) and one of replace.
@pytest.mark.process
@pytest.mark.parametrize('where, number', [('encode', 1), ('encode', 4),
                                           ('fsync', 1), ('fsync', 3),
                                           ('replace', 1), ('replace', 2)])
def test_a_killed_call_is_continued(cfg, cache, tmp_path, where, number):
    out = tmp_path / 'killed'
    process = multiprocessing.get_context('fork').Process(
        target=killed, args=(where, number, cfg, out))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    before = {p: p.stat().st_mtime_ns for p in out.glob('*.safetensors')}
    assert len(before) < 3
    if len(before) > 0:
        with pytest.raises(ValueError, match='of 3 files are missing'):
            DATASETS.build(cached(cfg, out))
    write(cfg, out)
    assert files(out) == files(tmp_path / 'cache')
    for path, time in before.items():
        assert path.stat().st_mtime_ns == time


def test_processes_share_the_files(cfg, cache, tmp_path):
    out = tmp_path / 'shared'
    write(cfg, out, rank=1, world_size=2)
    assert [path.name for path in out.iterdir()] == ['00001.safetensors']
    write(cfg, out, rank=0, world_size=2)
    assert files(out) == files(tmp_path / 'cache')


def other_codec(cfg, street):
    cfg.merge_from_dict({'model.semflow.codec.amplitude': 3.})


def other_size(cfg, street):
    cfg.train_dataloader.dataset.pipeline.insert(
        2, dict(type='Resize', scale=(16, 12), keep_ratio=False))


def other_files(cfg, street):
    path = street / 'img_dir/train/3.jpg'
    image = cv2.imread(str(path))
    cv2.imwrite(str(path), 255 - image, [cv2.IMWRITE_JPEG_QUALITY, 30])


def one_image_less(cfg, street):
    (street / 'img_dir/train/5.jpg').unlink()


def other_flip(cfg, street):
    cfg.train_dataloader.dataset.pipeline[2].direction = 'vertical'


def other_weights(cfg, street):
    save_vae(street.parent / 'sd')


def other_scale(cfg, street):
    vae = dict(VAE, scaling_factor=0.5)
    AutoencoderKL(**vae).save_pretrained(street.parent / 'sd/vae')
    cfg.model.semflow.autoencoder.vae = vae


OF_THE_DATA = [
    (other_files, 'dataset.files was'),
    (one_image_less, 'dataset.num_images was 6 and is 5 now'),
    (other_flip, r'pipeline\[2\].direction was None and is vertical now'),
]
OF_THE_AUTOENCODER = [
    (other_weights, 'weights(.float32)? was'),
    (other_scale, r'scaling_factor.*0.25.*0.5'),
]


@pytest.mark.parametrize('change, match', [
    *OF_THE_DATA, *OF_THE_AUTOENCODER,
    (other_codec, r'codec.amplitude was 6.0 and is 3.0 now'),
    (other_size, r'pipeline|size\[0\] was 24 and is 12 now')
])
def test_the_tool_refuses_another_cache(cfg, cache, street, tmp_path, change,
                                        match):
    before = files(tmp_path / 'cache')
    change(cfg, street)
    with pytest.raises(ValueError, match=f'cache was cached for .*{match}'):
        write(cfg, cache)
    assert files(tmp_path / 'cache') == before


def test_the_tool_refuses_another_number_of_draws(cfg, cache):
    with pytest.raises(ValueError, match='num_draws was 3 and is 4 now'):
        write(cfg, cache, num_draws=4)


@pytest.mark.parametrize('change, match', [
    *OF_THE_DATA, (other_size, r'pipeline was .* and is .*scale.*16, 12')])
def test_training_refuses_a_cache_of_other_data(cfg, cache, street, change,
                                                match):
    change(cfg, street)
    with pytest.raises(ValueError, match=f'cached for .*{match}'):
        DATASETS.build(cached(cfg, cache))


@pytest.mark.parametrize('change, match', OF_THE_AUTOENCODER)
def test_training_refuses_a_cache_of_another_autoencoder(
        cfg, cache, street, change, match):
    change(cfg, street)
    cfg.train_dataloader.dataset = cached(cfg, cache)
    with pytest.raises(ValueError, match=(
            f'latents of {cache} were .* with another autoencoder.*{match}')):
        Runner.from_cfg(cfg).train()


def test_training_from_a_checkpoint_of_another_autoencoder(
        cfg, cache, tmp_path):
    """What counts are the weights that training starts from."""
    other = model_of(cfg)
    other.semflow.autoencoder.vae.encoder.conv_in.bias.data[0] += 1e-3
    torch.save(dict(state_dict=other.state_dict()), tmp_path / 'other.pth')
    images = cfg.train_dataloader.dataset
    cfg.load_from = str(tmp_path / 'other.pth')
    cfg.train_dataloader.dataset = cached(cfg, cache)
    with pytest.raises(ValueError, match='another autoencoder: its weights was'):
        Runner.from_cfg(cfg).train()
    with pytest.raises(ValueError, match='autoencoder.weights.float32 was'):
        write(cfg, cache)
    cfg.train_dataloader.dataset.cache = str(tmp_path / 'new')
    write(cfg, None)
    model = model_of(cfg)
    model.load_state_dict(other.state_dict())
    dataset = DATASETS.build(dict(cfg.train_dataloader.dataset, dataset=images))
    assert losses(model, [dataset[0]])['loss_flow'].isfinite()


def test_training_in_bfloat16_accepts_the_cache(cfg, cache):
    """DeepSpeed rounds the weights of the whole model."""
    sample = DATASETS.build(cached(cfg, cache))[0]
    model = model_of(cfg).bfloat16()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert losses(model, [sample])['loss_flow'].isfinite()
    other = model_of(cfg).bfloat16()
    other.semflow.autoencoder.vae.encoder.conv_in.bias.data[0] += 0.1
    with pytest.raises(ValueError, match='another autoencoder: its weights was'):
        losses(other, [sample])


def test_training_refuses_latents_of_another_codec(cfg, cache):
    cfg.merge_from_dict({'model.semflow.codec.amplitude': 3.})
    sample = DATASETS.build(cached(cfg, cache))[0]
    with pytest.raises(ValueError, match=r"'amplitude': 3.0.* made by .*: 6.0"):
        losses(model_of(cfg), [sample])


def test_incomplete_broken_and_foreign_caches(cfg, cache, tmp_path):
    folder = tmp_path / 'cache'
    shard = folder / '00001.safetensors'
    data = shard.read_bytes()

    def expect(error, match):
        with pytest.raises(error, match=match):
            DATASETS.build(cached(cfg, folder))

    shard.unlink()
    expect(ValueError, '1 of 3 files are missing, for example 00001.safe')
    shard.write_bytes(data[:-100])
    expect(ValueError, '00001.safetensors cannot be read')
    write(cfg, tmp_path / 'other', num_draws=1)
    shutil.copy(tmp_path / 'other/00001.safetensors', shard)
    expect(ValueError, '00001.safetensors was not written for .*key.json')
    (folder / 'key.json').unlink()
    expect(FileNotFoundError, 'there are no cached latents at .*cache_latents.py')
    # The key is not made anew for what was written for another one.
    with pytest.raises(ValueError, match='00001.safetensors was not written'):
        write(cfg, folder)


@pytest.mark.parametrize('transform', [
    dict(type='RandomCrop', crop_size=(16, 16)),
    dict(type='RandomResize', scale=(32, 24), ratio_range=(1., 2.)),
    dict(type='PhotoMetricDistortion'),
    dict(type='GeneratePseudoMask', codec=CODEC),
])
def test_random_transforms_are_refused(cfg, tmp_path, transform):
    cfg.train_dataloader.dataset.pipeline.insert(2, transform)
    with pytest.raises(
            ValueError, match=f'^{transform["type"]} stands in the train_pipe'):
        write(cfg, tmp_path / 'cache')
    assert not (tmp_path / 'cache').exists()


RANDOM = [
    dict(type='RandomResize', scale=(40, 30), ratio_range=(1., 2.)),
    dict(type='RandomCrop', crop_size=(24, 32)),
    dict(type='PhotoMetricDistortion')
]


@pytest.fixture
def views(cfg, tmp_path):
    """The config of training from 4 views of an image, and their cache."""
    images = cfg.train_dataloader.dataset
    images.pipeline[2:2] = RANDOM[:2]
    images.pipeline.insert(-1, RANDOM[2])
    cfg.train_dataloader.dataset = dict(
        type='CachedLatentsDataset',
        cache=str(tmp_path / 'views'),
        num_views=4,
        dataset=images)
    cfg.model = segmentor_cfg()
    write(cfg, None, num_draws=1)
    return cfg


def patches_of(cfg, dataset, index, view):
    """What a view of a cache in patches shows, and its labels."""
    posterior, _, label_map = dataset.cache.load(index, view, 0)
    patches = MODELS.build(cfg.model.semflow.autoencoder)
    return patches.decode(posterior[:1])[0], label_map


def test_views_are_draws_of_the_pipeline(views):
    """Of patches, which are the pixels themselves."""
    dataset = DATASETS.build(views.train_dataloader.dataset)
    images = views.train_dataloader.dataset.dataset
    assert len(dataset) == 6
    shown = [patches_of(views, dataset, 3, view) for view in range(4)]
    for image, label_map in shown:
        assert image.shape == (3, 24, 32) and label_map.shape == (24, 32)
    assert all(
        not torch.equal(one[part], other[part]) for part in range(2)
        for one, other in itertools.combinations(shown, 2))
    # Colours are distorted and places are not: only the last transform differs.
    state = (torch.get_rng_state(), np.random.get_state()[1].tolist(),
             random.getstate())
    del images.pipeline[-2]
    found = TrainingViews(images, num_views=4).items(3)
    assert torch.equal(state[0], torch.get_rng_state())
    assert state[1:] == (np.random.get_state()[1].tolist(), random.getstate())
    distorted = []
    for item, (image, label_map) in zip(found, shown, strict=True):
        assert torch.equal(item['data_samples'].gt_sem_seg.data[0],
                           label_map.long())
        plain = item['inputs'].flip(0) / 127.5 - 1
        distorted.append((image - plain).abs().mean() > 0.01)
    assert any(distorted)


def test_views_and_crops_are_drawn(views):
    dataset = DATASETS.build(
        dict(views.train_dataloader.dataset, crop_size=(16, 24)))
    torch.manual_seed(0)
    seen = set()
    for _ in range(200):
        item = dataset[1]
        sample = item['data_samples']
        label_map = sample.gt_sem_seg.data[0]
        assert label_map.shape == (16, 24)
        places = [(view, top, left) for view in range(4)
                  for top in range(0, 9, 2) for left in range(0, 9, 2)
                  if torch.equal(
                      dataset.cache.load(1, view, 0)[2][top:top + 16, left:left + 24],
                      label_map)]
        assert (sample.view in {view for view, _, _ in places})
        for view, top, left in places:
            whole = dataset.cache.load(1, view, 0)
            cells = [slice(top // 2, top // 2 + 8), slice(left // 2, left // 2 + 12)]
            if torch.equal(whole[0][:, :, cells[0], cells[1]], item['inputs']):
                assert torch.equal(whole[1][:, cells[0], cells[1]],
                                   sample.gt_mask_latent.data)
                seen.add((view, top, left))
                break
        else:
            pytest.fail(f'no crop of the cache: {places}')
    assert {view for view, _, _ in seen} == set(range(4))
    assert {top for _, top, _ in seen} == {left for _, _, left in seen} \
        == {0, 2, 4, 6, 8}


def test_training_from_views(views, tmp_path):
    views.train_dataloader.dataset.crop_size = (16, 24)
    Runner.from_cfg(views).train()
    assert (tmp_path / 'work/iter_4.pth').is_file()


@pytest.mark.parametrize('change, match', [
    (dict(crop_size=(15, 24)), r'multiples of 2 up to \(24, 32\).*\(15, 24\)'),
    (dict(crop_size=(26, 24)), r'up to \(24, 32\).*got \(26, 24\)'),
    (dict(crop_size=(16, )), 'must be height and width'),
    (dict(num_views=3), 'num_views was 4 and is 3 now'),
    (dict(num_views=0), 'num_views must be >= 1, but got 0'),
    (dict(num_views=None), 'RandomResize stands in .*set num_views'),
])
def test_views_that_break_a_rule(views, change, match):
    with pytest.raises(ValueError, match=match):
        DATASETS.build(dict(views.train_dataloader.dataset, **change))


def test_training_refuses_views_of_another_crop(views):
    dataset = copy.deepcopy(views.train_dataloader.dataset)
    dataset.dataset.pipeline[3].crop_size = (20, 32)
    with pytest.raises(ValueError, match=r'crop_size\[0\] was 24 and is 20 now'):
        DATASETS.build(dataset)


def test_views_of_several_sizes_are_refused(cfg, tmp_path):
    images = cfg.train_dataloader.dataset
    images.pipeline.insert(2, RANDOM[0])
    cfg.train_dataloader.dataset = dict(
        type='CachedLatentsDataset', cache='', num_views=4, dataset=images)
    with pytest.raises(ValueError, match='of one size, .* RandomCrop in the'):
        write(cfg, tmp_path / 'views')


@pytest.mark.parametrize('flip', [
    dict(prob=[0.3, 0.2], direction=['horizontal', 'vertical']),
])
def test_flips_of_several_directions_are_refused(cfg, tmp_path, flip):
    cfg.train_dataloader.dataset.pipeline[2].update(flip)
    with pytest.raises(ValueError, match='one RandomFlip of one prob and dir'):
        write(cfg, tmp_path / 'cache')


def test_images_of_several_sizes_are_refused(cfg, street, tmp_path):
    for kind, name in (('img_dir', '3.jpg'), ('ann_dir', '3.png')):
        cv2.imwrite(str(street / kind / 'train' / name),
                    np.zeros((12, 32, 3)[:3 if kind == 'img_dir' else 2], 'u1'))
    with pytest.raises(ValueError, match=r'3.jpg has \(12, 32\) and the first'):
        write(cfg, tmp_path / 'cache')


@pytest.mark.parametrize('name', ['img_dir/train/3.jpg', 'ann_dir/train/3.png'])
def test_a_damaged_file_is_named(cfg, street, tmp_path, name):
    data = (street / name).read_bytes()
    (street / name).write_bytes(data[:len(data) * 3 // 4])
    with pytest.raises(UnreadableImageError, match=f'{name} cannot be read'):
        write(cfg, tmp_path / 'cache')


def test_padding_is_refused(cfg, cache, tmp_path):
    for padding in (dict(size=(32, 32)), dict(size_divisor=16)):
        cfg.model.data_preprocessor = dict(
            type='SemFlowDataPreProcessor', **padding)
        with pytest.raises(ValueError, match=r'pads \(24, 32\) to \(32, 32\)'):
            write(cfg, tmp_path / 'padded')
        with pytest.raises(ValueError, match=r'pads \(24, 32\) to \(32, 32\)'):
            losses(model_of(cfg), [DATASETS.build(cached(cfg, cache))[0]])
    cfg.model.data_preprocessor.update(size=(24, 32), size_divisor=None)
    write(cfg, cache)


@pytest.mark.parametrize('options, match', [
    (dict(num_draws=0), 'num_draws must be >= 1, but got 0'),
    (dict(out=None), 'has no CachedLatentsDataset'),
])
def test_arguments_that_break_a_rule(cfg, tmp_path, options, match):
    with pytest.raises(ValueError, match=match):
        write(cfg, **{'out': tmp_path / 'cache', **options})


def test_a_disk_that_is_too_small(cfg, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(latent_cache.shutil, 'disk_usage',
                        lambda path: usage._replace(free=1000))
    with pytest.raises(OSError, match='1e-06 GB free and the latents need'):
        write(cfg, tmp_path / 'cache')


@pytest.mark.parametrize('change, match', [
    (lambda key: key.pop('dataset'), r"key.json is no key .*KeyError\('dataset'\)"),
    (lambda key: key.update(shard_size='2'), 'key.json is no key'),
    (lambda key: key.update(shard_size=0), 'must be of at most 100,000 files'),
    (lambda key: key['dataset'].update(num_images=10**12),
     'at most 100,000 files, but its key has 1000000000000 images, 2 a file'),
])
def test_a_damaged_key(cache, change, match):
    path = Path(cache, 'key.json')
    key = json.loads(path.read_text())
    change(key)
    path.write_text(json.dumps(key))
    with pytest.raises(ValueError, match=match):
        LatentCache.read(cache)
    path.write_text('{"a"')
    with pytest.raises(ValueError, match='key.json must hold a JSON object'):
        LatentCache.read(cache)


@pytest.mark.parametrize('change, match', [
    (lambda parts: parts.pop('label_maps'), 'label_maps, U8 of .* but has None'),
    (lambda parts: parts.update(posterior=parts['posterior'].half()),
     r"posterior, F32 of .* but has \('F16'"),
    (lambda parts: parts.update(mask_latents=parts['mask_latents'][:, :, :1]),
     r"mask_latents, F32 of \(2, 2, 3, .* but has \('F32', \(2, 2, 1, "),
])
def test_a_file_of_other_parts(cache, change, match):
    path = Path(cache, '00001.safetensors')
    found = LatentCache.read(cache)
    parts = load_file(path)
    change(parts)
    save_file({k: v.contiguous() for k, v in parts.items()}, path,
              dict(key=found.digest))
    with pytest.raises(ValueError, match=f'00001.safetensors must hold {match}'):
        found.missing()
