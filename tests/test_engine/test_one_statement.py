"""The codec stands once: in the model, whatever the data.

Ablations are one option each of ``--cfg-options``, and datasets of mmsegmentation
train with the pipelines they have.
"""

import argparse
from pathlib import Path

import pytest
import torch
from mmengine.config import Config, DictAction
from mmengine.runner import Runner
from mmseg.registry import MODELS, TRANSFORMS

from layouts import write_ade20k
from mmseg_semflow.datasets.toy_street import write_toy_street
from mmseg_semflow.flow import PseudoMaskCodec
from mmseg_semflow.safe_loading import load_from_local
from tiny import EIGHTFOLD_VAE, UNET

ROOT = Path(__file__).parents[2]


def shorten(cfg, work_dir):
    """Two iterations, in this process."""
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset.serialize_data = False
    cfg.merge_from_dict({
        'train_dataloader.batch_size': 2,
        'train_cfg.max_iters': 2,
        'train_cfg.val_interval': 2,
        'default_hooks.checkpoint.interval': 2,
        'log_level': 'WARNING',
        'work_dir': str(work_dir),
        'experiment_name': str(work_dir)
    })
    return cfg


def train(cfg):
    """Train, and return the model and what it was given and drew."""
    runner, seen = Runner.from_cfg(cfg), []
    semflow = runner.model.semflow
    perturbed_masks = semflow.perturbed_masks

    def see(label_maps):
        masks = perturbed_masks(label_maps)
        seen.append((label_maps, masks))
        return masks

    semflow.perturbed_masks = see
    runner.train()
    assert runner.iter == len(seen) == 2
    return semflow, seen


def assert_coloured(seen, codec):
    """By this codec, and moved by its amplitude."""
    for label_maps, masks in seen:
        noise = (masks + 1) * 127.5 - codec.encode(label_maps)
        assert 0.9 * codec.amplitude < noise.abs().max()
        assert noise.abs().max() < codec.amplitude + 1e-3


@pytest.fixture(scope='module')
def toy_street(tmp_path_factory):
    folder = tmp_path_factory.mktemp('toy') / 'toy_street'
    write_toy_street(str(folder), **SMALL)
    return str(folder)


SMALL = dict(num_train=4, num_val=2, size=(32, 48), seed=0)


def options(*arguments):
    """As mmsegmentation's tools parse them."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    return parser.parse_args(['--cfg-options', *arguments]).cfg_options


@pytest.mark.parametrize('arguments, changed', [
    (['model.semflow.codec.amplitude=5'], dict(amplitude=5)),
    ([
        'model.semflow.codec.spacing=50', 'model.semflow.codec.divisions=6',
        'model.semflow.codec.codes=None', 'model.semflow.codec.amplitude=6'
    ], dict(spacing=50, divisions=6, codes=None, amplitude=6)),
])
def test_an_ablation_is_an_option(toy_street, tmp_path, arguments, changed):
    cfg = Config.fromfile(ROOT / 'configs/semflow_toy.py')
    whole = PseudoMaskCodec(**cfg.codec)
    codec = PseudoMaskCodec(**{**cfg.codec, **changed})
    cfg.merge_from_dict(options(*arguments))
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.update(
            data_root=toy_street, generate=SMALL)
    cfg.model.semflow.network.unet.update(
        block_out_channels=(8, 8, 8), norm_num_groups=4)
    cfg.model.semflow.wrappers[1].token_channels = 32
    shorten(cfg, tmp_path / 'work')
    semflow, seen = train(cfg)
    assert semflow.codec.spec == codec.spec != whole.spec
    assert_coloured(seen, codec)
    state_dict = load_from_local(str(tmp_path / 'work/iter_2.pth'))['state_dict']
    for name, value in codec.state_dict().items():
        assert torch.equal(state_dict[f'semflow.codec.{name}'], value), name
    # And the checkpoint tells the codecs apart.
    cfg.model.semflow.codec = cfg.codec
    with pytest.raises(ValueError, match='a codec with other'):
        MODELS.build(cfg.model).load_state_dict(state_dict)


ADE20K = f'''
_base_ = ['mmseg::_base_/datasets/ade20k.py', 'mmseg::_base_/default_runtime.py',
          '{ROOT}/configs/_base_/models/semflow_sd15.py',
          '{ROOT}/configs/_base_/schedules/semflow_80k.py',
          '{ROOT}/configs/_base_/semflow_runtime.py']
codec = dict(num_classes=150, divisions=6, spacing=50, amplitude=6)
model = dict(semflow=dict(codec=codec), data_preprocessor=dict(
    size=_base_.crop_size, test_cfg=dict(size_divisor=8)))
'''


def test_a_dataset_of_mmsegmentation_as_it_is(tmp_path):
    write_ade20k(tmp_path / 'ade')
    cfg, own = (
        Config.fromstring(text, '.py')
        for text in (ADE20K, "_base_ = 'mmseg::_base_/datasets/ade20k.py'"))
    assert cfg.train_dataloader.dataset == own.train_dataloader.dataset
    for transform in cfg.train_dataloader.dataset.pipeline:
        module = TRANSFORMS.get(transform.type).__module__
        assert module.split('.')[0] in ('mmcv', 'mmseg'), module
    for split in ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        dataset.data_root = str(tmp_path / 'ade')
        for transform in dataset.pipeline:
            transform.update({
                key: value for key, value in dict(
                    scale=(128, 32), crop_size=(32, 32)).items()
                if key in transform
            })
    cfg.model.data_preprocessor.size = (32, 32)
    semflow = cfg.model.semflow
    semflow.network.update(sd_folder=None, unet=UNET, prompt_length=3)
    semflow.autoencoder.update(sd_folder=None, vae=EIGHTFOLD_VAE)
    cfg.model.test_cfg.num_steps = 1
    semflow, seen = train(shorten(cfg, tmp_path / 'work'))
    assert_coloured(seen, PseudoMaskCodec(**cfg.codec))
    labels = torch.cat([label_maps.unique() for label_maps, _ in seen]).unique()
    assert labels.max() == 255 and 50 < labels[-2] < 150 and labels.min() >= 0
    assert (tmp_path / 'work/iter_2.pth').is_file()
