"""The three steps of the style swap, through the shipped recipes, on tiny networks."""

import json

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from mmengine.runner import Runner
from shipped import load, read, small

from layouts import LAYOUTS
from mmseg_semflow.apis import SemFlowInferencer
from mmseg_semflow.generation.generate import generate_set
from mmseg_semflow.safe_loading import load_from_local
from tiny import UNET, VAE, write_sd_folder

pytest.importorskip('peft')


def whole(name, root):
    """A recipe on tiny networks with the weights of a folder."""
    cfg = small(load(name), root / 'data', root / name)
    semflow, folder = cfg.model.semflow, str(root / 'sd')
    for part in (semflow.network, semflow.autoencoder, *semflow.get('wrappers', ())):
        part.sd_folder = folder
    for wrapper in semflow.get('wrappers', ()):
        # In letters, which are the tokens of the tests, there is room for this one.
        wrapper.scene = 'a street photo'
    cfg.custom_hooks = cfg.custom_hooks[:1]
    # One iteration that is seen.
    cfg.param_scheduler = []
    cfg.optim_wrapper.optimizer.lr = 0.02
    cfg.train_cfg.val_begin = 2
    return cfg


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """The folder of a UNet that was fitted, and of an adapter upon it."""
    root = tmp_path_factory.mktemp('swap')
    LAYOUTS['gta5'](root / 'data')
    torch.manual_seed(0)
    write_sd_folder(root / 'sd', unet=UNET, vae=VAE)
    Runner.from_cfg(whole('semflow_gta5_source', root)).train()
    cfg = whole('semflow_gta5', root)
    cfg.model.semflow.network.unet_weights = str(
        root / 'semflow_gta5_source/iter_1.pth')
    cfg.train_cfg.val_begin = 1
    Runner.from_cfg(cfg).train()
    return root


def inferencer(trained, name, **network):
    cfg = whole(name, trained)
    cfg.model.semflow.network.update(network)
    return SemFlowInferencer(
        cfg, str(trained / 'semflow_gta5/iter_1.pth'), 'cpu')


def test_the_parts_of_full_size():
    cfg = load('semflow_gta5')
    with torch.device('meta'):
        network = MODELS.build(cfg.model.semflow.network)
    trained = sum(w.numel() for w in network.parameters() if w.requires_grad)
    assert trained == 55_271_424
    names = cfg.model.semflow.wrappers[0].classes
    assert len(names) == cfg.codec.num_classes
    source = read('semflow_gta5_source')
    # Of the fit, the adapter changes what the fit leaves.
    assert source.model.semflow.network.unet == cfg.model.semflow.network.unet
    last = f'iter_{source.train_cfg.max_iters}.pth'
    assert cfg.model.semflow.network.unet_weights.endswith(
        f'semflow_gta5_source/{last}')
    assert source.train_cfg.val_begin > source.train_cfg.max_iters


def test_the_swapped_recipe_draws_upon_the_original():
    """Without weights of its own the network is that of the folder."""
    fitted, swapped = (
        read(f'semflow_gta5{end}').model.semflow.network for end in ('', '_swapped'))
    assert swapped.unet_weights is None and fitted.unet_weights is not None
    assert swapped.sd_folder == fitted.sd_folder
    assert swapped.lora == dict(fitted.lora, swap=True)


def test_classes_in_words_are_those_of_cityscapes():
    from mmseg.datasets import CityscapesDataset
    assert read('semflow_gta5').model.semflow.wrappers[0].classes == list(
        CityscapesDataset.METAINFO['classes'])


def test_the_chain_of_trainings(trained):
    fitted, adapter = (
        load_from_local(str(trained / name / 'iter_1.pth'))['state_dict']
        for name in ('semflow_gta5_source', 'semflow_gta5'))
    assert not any('.lora_' in key for key in fitted)
    inside = 'semflow.network.unet.'
    assert all('.lora_' in key for key in adapter if key.startswith(inside))
    assert adapter['semflow.wrappers.0.names'].any()
    assert adapter['semflow.network.null_prompt'].any()


def test_drawn_upon_the_original_pictures_are_others(trained):
    labels = np.random.default_rng(0).integers(0, 19, (32, 64))
    source = str(trained / 'semflow_gta5_source/iter_1.pth')
    upon_source = inferencer(trained, 'semflow_gta5', unet_weights=source)
    swapped = inferencer(trained, 'semflow_gta5_swapped')
    assert upon_source.base != swapped.base
    images = [
        part.synthesize(labels, num_steps=1, size=None, dtype=None)
        for part in (upon_source, swapped)
    ]
    assert images[0].shape == images[1].shape == (1, 32, 64, 3)
    assert (images[0] != images[1]).any()
    adapters = [
        {k: v for k, v in part.semflow.network.state_dict().items() if '.lora_' in k}
        for part in (upon_source, swapped)
    ]
    torch.testing.assert_close(*adapters)


def test_the_swap_is_asked_for_by_its_recipe_alone(trained):
    with pytest.raises(ValueError, match=r'trained upon .*source/iter_1.pth .*, but '
                       r'the base of this config is .*sd/unet .*lora.swap=True'):
        inferencer(trained, 'semflow_gta5', unet_weights=None)


def test_a_set_of_other_weather(trained, tmp_path):
    cfg = whole('semflow_gta5_swapped', trained)
    records = generate_set(
        cfg, str(trained / 'semflow_gta5/iter_1.pth'), tmp_path / 'set', 2,
        choose='each', size=(32, 64), style_texts=['foggy weather', ''],
        min_agreement=0., device='cpu', num_steps=1, dtype=None)
    assert [record['style_text'] for record in records] == ['foggy weather', '']
    settings = json.loads((tmp_path / 'set/settings.json').read_text())
    assert len(settings['base']) == 16
    image = cv2.imread(str(tmp_path / 'set/img_dir/train/000000.png'))
    assert image.shape == (32, 64, 3)


def test_the_fitted_unet_draws_whatever_the_mask(trained):
    """Pictures of the domain, to look at."""
    fitted = SemFlowInferencer(
        whole('semflow_gta5_source', trained),
        str(trained / 'semflow_gta5_source/iter_1.pth'), 'cpu')
    images = fitted.synthesize(
        np.zeros((32, 64), int), num_samples=2, num_steps=2, size=None, dtype=None)
    assert (images[0] != images[1]).any()
    with pytest.raises(ValueError, match='transport asks for image_to_mask'):
        fitted.segment(np.zeros((32, 64, 3), np.uint8))
