"""What a model accepts as its checkpoint."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner.checkpoint import load_checkpoint, load_state_dict
from torch import nn

from golden import read
from mmseg_semflow.apis import load_model
from mmseg_semflow.models import CheckpointGuard
from mmseg_semflow.models.checkpoint_guard import rename_old_keys
from tiny import (
    CODEC,
    META,
    TEST_PIPELINE,
    VAE,
    network_cfg,
    save_old_checkpoint,
    semflow_cfg,
)

KL = dict(
    autoencoder=dict(type='KLAutoencoder', vae=VAE),
    network=network_cfg(channels=4))


# As a unit, without a model.


def own_weights(prefix=''):
    return {
        f'{prefix}{key}': value for key, value in {
            'codec.level': torch.tensor([1., 2.]),
            'codec.table': torch.tensor([[1., 2.], [3., 4.]]),
            'network.a': torch.zeros(2, 3),
            'network.b': torch.zeros(4),
            'wrapper': torch.zeros(1)
        }.items()
    }


def checked(change=(), partial=(), prefix='', own=None):
    """Check a state dict of ones, changed, and return what is to be loaded."""
    own = own_weights(prefix) if own is None else own
    state_dict = {
        key: value.clone() if 'codec' in key else torch.ones_like(value)
        for key, value in own.items()
    }
    for key, value in dict(change).items():
        state_dict[f'{prefix}{key}'] = value
        if value is None:
            del state_dict[f'{prefix}{key}']
    guard = CheckpointGuard({
        'codec.level': 'codec of other level',
        'codec.table': 'codec of other table'
    }, partial)
    guard.check(state_dict, own, prefix, 'Model')
    return state_dict


@pytest.mark.parametrize('prefix', ['', 'semflow.'])
def test_what_fits_is_taken(prefix):
    found = checked(prefix=prefix, change={'network.b': torch.arange(4.)})
    assert found.keys() == own_weights(prefix).keys()
    assert torch.equal(found[f'{prefix}network.b'], torch.arange(4.))
    assert (found[f'{prefix}network.a'] == 1).all()


@pytest.mark.parametrize('change, message', [
    ({'codec.level': None}, "^not a checkpoint of Model: it has no 's.codec.level'"),
    ({'codec.level': torch.tensor([1., 3.])},
     r'has a codec of other level: \[1.0, 3.0\], but \[1.0, 2.0\] in the config'),
    ({'codec.level': torch.zeros(3)},
     r'level: \[0.0, 0.0, 0.0\], but \[1.0, 2.0\] in the config'),
    ({'codec.table': torch.tensor([[1., 2.], [3., 5.]])},
     r'other table: \[3.0, 5.0\] of class 1, but \[3.0, 4.0\] in the config'),
    ({'network.b': None}, "1 keys .* 's.network.b' is nothing in the checkpoint "
     r'and \(4,\) in the config. Parts .* partial_load'),
    ({'network.c': torch.zeros(5)},
     r"'s.network.c' is \(5,\) in the checkpoint and nothing in the config"),
    ({'network.b': torch.zeros(5), 'wrapper': torch.zeros(2)},
     r"2 keys .* 's.network.b' is \(5,\) .* and \(4,\) in the config"),
])
def test_what_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        checked(change, prefix='s.')


def test_keys_of_other_modules_do_not_matter():
    own = own_weights('semflow.')
    state_dict = own | {'head.weight': torch.zeros(9), 'semflow': 1}
    CheckpointGuard({'codec.level': 'other'}).check(
        state_dict, own, 'semflow.', 'Model')
    assert state_dict.keys() == {*own, 'head.weight', 'semflow'}


def test_values_that_a_coarser_dtype_rounded_are_the_same():
    own = own_weights()
    own['codec.level'] = torch.tensor([1.001, 2.])
    found = checked({'codec.level': own['codec.level'].bfloat16()}, own=own)
    assert torch.equal(found['codec.level'], own['codec.level'])
    with pytest.raises(ValueError, match='codec of other level'):
        checked({'codec.level': torch.tensor([1.01, 2.]).bfloat16()}, own=own)


@pytest.mark.parametrize('change, partial', [
    ({'network.b': None}, ['network.b']),
    ({'network.b': torch.zeros(5)}, ['network.']),
    ({'network.c': torch.zeros(5)}, ['network.']),
    ({'codec.level': None}, ['codec.level']),
    ({'codec.level': torch.zeros(3)}, ['codec.']),
    ({'codec.table': torch.zeros(2, 2)}, ['codec.']),
    ({'wrapper': None, 'network.a': None}, ['wrapper', 'network.a']),
])
@pytest.mark.parametrize('prefix', ['', 'semflow.'])
def test_what_may_differ_keeps_the_models_own(change, partial, prefix):
    own = own_weights(prefix)
    found = checked(change, partial, prefix, own)
    assert found.keys() == own.keys()
    for key, value in found.items():
        changed = key.removeprefix(prefix) in change
        expected = own[key] if changed or 'codec' in key else torch.ones_like(value)
        assert torch.equal(value, expected), key


@pytest.mark.parametrize('change, partial', [
    ({'network.b': None}, ['network.a']),
    ({'network.b': None}, ['b']),
    ({'network.b': None}, ['semflow.network.b']),
    ({'network.b': None, 'wrapper': None}, ['network.']),
    ({'codec.level': torch.zeros(2)}, ['network.', 'codec.table']),
])
def test_nothing_else_may_differ(change, partial):
    with pytest.raises(ValueError, match='another architecture|of other level'):
        checked(change, partial, 'semflow.')


OLD = {
    'velocity_net.unet.conv_in.weight': 'network.unet.conv_in.weight',
    'velocity_net.null_prompt': 'network.null_prompt',
    'velocity_net.end_std': 'wrappers.0.end_std',
    'bridge': 'process.bridge',
    'alphas': 'process.alphas',
    'prediction': 'process.prediction'
}
TODAY = [*OLD.values(), 'autoencoder.vae.velocity_net.x', 'codec.levels',
         'bridges', 'alphas.x', 'velocity_nets.x']


@pytest.mark.parametrize('prefix', ['', 'semflow.'])
def test_keys_of_the_first_version_get_todays_names(prefix):
    state_dict = {
        f'{prefix}{key}': number
        for number, key in enumerate([*OLD, *TODAY[len(OLD):]])
    }
    others = {'module.velocity_net.x': 'other', 'x.bridge': 'other'}
    state_dict.update(others)
    rename_old_keys(state_dict, prefix)
    assert state_dict == others | {
        f'{prefix}{key}': number for number, key in enumerate(TODAY)
    }
    again = dict(state_dict)
    rename_old_keys(again, prefix)
    assert again == state_dict


# Through a model.


def build(**kwargs):
    return MODELS.build(semflow_cfg(**kwargs))


def assert_same(model, state_dict):
    found = model.state_dict()
    assert found.keys() == state_dict.keys()
    for key, value in found.items():
        assert torch.equal(value, state_dict[key]), key


WIDE = network_cfg()
WIDE['unet']['block_out_channels'] = (16, 16)


@pytest.mark.parametrize('kwargs, match', [
    (dict(codec=dict(CODEC, num_classes=6)),
     r'other anchors .*: shape \(5, 3\), but \(6, 3\)'),
    (dict(codec=dict(CODEC, spacing=150)),
     r'\[0.0, 0.0, 200.0\] of class 1, but \[0.0, 0.0, 150.0\]'),
    (dict(codec=dict(CODEC, codes=(1, 0, 2, 3, 4))), 'other anchors'),
    (dict(codec=dict(CODEC, amplitude=3.)), 'other amplitude: 6.0, but 3.0'),
    (dict(codec=dict(CODEC, void_color=(90, 90, 90))), 'other void_color'),
    (dict(codec=dict(CODEC, grain=4)), "'codec.noise_grain'"),
    (dict(network=WIDE), 'another architecture'),
    (KL, 'another architecture'),
    (dict(wrappers=[dict(type='EndStdPreconditioning', end_std=(0.5, 1.))]),
     "'wrappers.0.end_std' is nothing in the checkpoint"),
])
def test_a_refusal_leaves_the_model_as_it_was(kwargs, match):
    state_dict = build().state_dict()
    model = build(**kwargs)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=match):
        load_state_dict(model, state_dict)
    assert_same(model, before)


@pytest.mark.parametrize('grain, match', [
    (8, 'codec with other grain: 4, but 8'), (1, "'codec.noise_grain'")])
def test_another_grain_is_refused(grain, match):
    state_dict = build(codec=dict(CODEC, grain=4)).state_dict()
    with pytest.raises(ValueError, match=match):
        load_state_dict(build(codec=dict(CODEC, grain=grain)), state_dict)
    load_state_dict(build(codec=dict(CODEC, grain=4)), state_dict)


def test_a_foreign_checkpoint_is_refused():
    with pytest.raises(ValueError, match='not a checkpoint of SemFlowModel'):
        load_state_dict(build(), nn.Conv2d(1, 1, 1).state_dict())


def test_a_checkpoint_fits_itself():
    model, other = build(), build()
    load_state_dict(other, model.state_dict(), strict=True)
    assert_same(other, model.state_dict())


@pytest.mark.parametrize('strict', [False, True])
@pytest.mark.parametrize('kwargs, partial, kept', [
    (dict(network=network_cfg(prompt_length=5)), ['network.null_prompt'],
     ['network.null_prompt']),
    (dict(codec=dict(CODEC, amplitude=3.)), ['codec.noise_level'],
     ['codec.noise_level']),
    (dict(codec=dict(CODEC, num_classes=6)), ['codec.'],
     ['codec.levels', 'codec.void_level', 'codec.noise_level']),
    (dict(wrappers=[dict(type='EndStdPreconditioning', end_std=(0.5, 1.))]),
     ['wrappers.'], ['wrappers.0.end_std']),
])
def test_listed_parts_keep_their_values(kwargs, partial, kept, strict):
    state_dict = build().state_dict()
    model = build(**kwargs, partial_load=partial)
    own = copy.deepcopy(model.state_dict())
    load_state_dict(model, state_dict, strict=strict)
    assert_same(model, {
        key: value if key in kept else state_dict[key]
        for key, value in own.items()
    })


def test_an_adapter_starts_from_a_checkpoint_without_it():
    """As in fine-tuning: new weights beside those that are loaded."""
    state_dict = build().state_dict()
    for partial, match in ((['network.adapter.'], None), ([], '2 keys differ')):
        model = build(partial_load=partial)
        model.network.adapter = nn.Linear(3, 3)
        own = copy.deepcopy(model.state_dict())
        if match:
            with pytest.raises(ValueError, match=match):
                load_state_dict(model, state_dict)
            continue
        load_state_dict(model, state_dict)
        assert_same(model, own | state_dict)
    # Back, the adapter is left out where it may be.
    back = build(partial_load=['network.adapter.'])
    load_state_dict(back, own | state_dict)
    assert_same(back, state_dict)


def test_weights_of_a_loss_need_not_be_in_a_checkpoint():
    model = build(losses=[dict(type='MatchingLoss')])
    model.losses[0].features = nn.Linear(3, 3)
    own = copy.deepcopy(model.state_dict())
    plain = build()
    load_state_dict(plain, own)
    assert_same(plain, {k: v for k, v in own.items() if 'losses' not in k})
    load_state_dict(model, build().state_dict())
    for key in ('losses.0.features.weight', 'losses.0.features.bias'):
        assert torch.equal(model.state_dict()[key], own[key])


def test_partial_load_is_a_list():
    with pytest.raises(ValueError, match="must be a list .* got the text 'network.'"):
        build(partial_load='network.')


# Files that the first version wrote.


@pytest.fixture(scope='module')
def old_checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp('old') / 'iter_8.pth'
    return path, save_old_checkpoint(path)


def config(semflow, **kwargs):
    dataset = dict(type='BaseSegDataset', metainfo=META, pipeline=TEST_PIPELINE)
    return Config(
        dict(
            model=dict(semflow=semflow, **kwargs),
            test_dataloader=dict(dataset=dataset)))


def test_an_old_file_is_loaded_by_load_model(old_checkpoint):
    path, semflow = old_checkpoint
    model = load_model(config(semflow, type='SemFlow'), str(path), 'cpu')
    state_dict, _ = read('semflow_options')
    rename_old_keys(state_dict, '')
    assert_same(model.semflow, state_dict)
    assert model.dataset_meta['classes'] == META['classes']


def test_an_old_file_is_loaded_by_mmengine(old_checkpoint):
    """As by load_from, and by the tools of mmsegmentation."""
    path, semflow = old_checkpoint
    model = MODELS.build(dict(type='SemFlow', semflow=semflow))
    load_checkpoint(model, str(path), map_location='cpu')
    state_dict, _ = read('semflow_options')
    rename_old_keys(state_dict, '')
    assert_same(model.semflow, state_dict)


def test_an_old_file_of_another_model_is_refused(old_checkpoint):
    path, semflow = old_checkpoint
    other = dict(semflow, codec=dict(semflow['codec'], amplitude=3.))
    model = MODELS.build(dict(type='SemFlow', semflow=other))
    with pytest.raises(ValueError, match='other amplitude: 10.0, but 3.0'):
        load_checkpoint(model, str(path), map_location='cpu')
