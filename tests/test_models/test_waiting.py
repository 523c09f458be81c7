"""The training step never waits for the device, besides for logging.

Nothing here needs a GPU: what would wait on one is an operator that reads a
tensor's values, or a tensor made of Python numbers, which is copied there.
"""

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmseg.registry import MODELS
from torch.utils._python_dispatch import TorchDispatchMode

from mmseg_semflow.models.data_preprocessor import pin
from tiny import CODEC, VAE, network_cfg, process_cfg, segmentor_cfg, training_data

KL = dict(
    autoencoder=dict(type='KLAutoencoder', vae=VAE),
    network=network_cfg(channels=4, gradient_checkpointing=True),
    wrappers=[dict(type='EndStdPreconditioning', end_std=(1., 2.))])
WAITING = ('_local_scalar_dense', 'nonzero', 'masked_select', '_unique2',
           'lift_fresh', 'equal', 'index_put_impl_')


class Waits(TorchDispatchMode):
    """List the operators that would wait."""

    def __init__(self):
        super().__init__()
        self.found = []
        self.on_device = True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split('::')[1].split('.')[0]
        if name in WAITING and self.on_device:
            self.found.append(name)
        return func(*args, **(kwargs or {}))

    def but_for(self, function):
        """Pass over what a function does, on the CPU."""

        def apart(*args):
            self.on_device = False
            function(*args)
            self.on_device = True

        return apart


def waits(padded=False, clip_grad=None, codec=None, **kwargs):
    cfg = segmentor_cfg(**kwargs)
    if padded:
        cfg['data_preprocessor']['size'] = (32, 40)
    model = MODELS.build(cfg).train()
    wrapper = OptimWrapper(
        torch.optim.SGD(model.semflow.network.parameters(), lr=.1),
        clip_grad=clip_grad)
    data = training_data(codec=codec)
    with Waits() as mode:
        preprocessor = model.data_preprocessor
        preprocessor._check_labels = mode.but_for(preprocessor._check_labels)
        model.train_step(data, wrapper)
    return mode.found


@pytest.mark.parametrize('kwargs', [
    {},
    dict(padded=True),
    dict(codec=CODEC),
    dict(codec=CODEC, padded=True),
    dict(losses=[dict(type='MatchingLoss', ignore_void=True)]),
    dict(
        process=dict(type='RectifiedFlow', start_fraction=0.5),
        losses=[
            dict(type='MatchingLoss'),
            dict(type='OneStepMapLoss', class_weight=[1.] * 5),
            dict(type='OneStepImageLoss')
        ]),
    dict(
        process=dict(type='RectifiedFlow', end_fraction=0.5),
        losses=[
            dict(type='MatchingLoss'),
            dict(type='OneStepImageLoss', last_fraction=0.5)
        ]),
    dict(
        process=dict(type='RectifiedFlow', start_fraction=0.5),
        losses=[
            dict(type='MatchingLoss'),
            dict(type='OneStepMapLoss', start_only=True)
        ]),
    KL,
    dict(wrappers=[
        dict(type='StyleToken', latent_channels=12, token_channels=16)
    ]),
    process_cfg('symmflow'),
    process_cfg('bbdm_segmentor'),
    process_cfg('dsm'),
], ids=['plain', 'padded', 'transforms', 'transforms padded', 'void', 'one_step',
        'end', 'start', 'kl', 'style', 'symmflow', 'bbdm', 'dsm'])
def test_the_step_waits_for_nothing(kwargs):
    assert waits(**kwargs) == []


def test_labels_are_looked_at_before_they_go_to_the_device(monkeypatch):
    preprocessor = MODELS.build(segmentor_cfg()).data_preprocessor
    order = []
    for name in ('_check_labels', 'cast_data'):
        method = getattr(preprocessor, name)
        monkeypatch.setattr(
            preprocessor, name,
            lambda data, name=name, method=method:
            (order.append(name), method(data))[1])
    preprocessor(training_data(), True)
    assert order[:2] == ['_check_labels', 'cast_data']
    assert order.count('_check_labels') == 1


def test_the_logged_norm_is_the_only_wait():
    assert waits(clip_grad=dict(max_norm=1.)) == ['_local_scalar_dense']


def test_what_waits_is_found():
    with Waits() as mode:
        x = torch.ones(3)
        x[[0, 1]]
        x.sum().item()
    assert mode.found == ['lift_fresh', '_local_scalar_dense']


def test_batches_are_pinned(monkeypatch):
    monkeypatch.setattr(torch.Tensor, 'pin_memory', lambda x: x.clone())
    data = training_data(codec=CODEC)
    pinned = pin(dict(data, other=('name', None)))
    assert pinned['other'] == ['name', None]
    for found, image in zip(pinned['inputs'], data['inputs'], strict=True):
        assert found is not image and torch.equal(found, image)
    for found, sample in zip(
            pinned['data_samples'], data['data_samples'], strict=True):
        assert found.metainfo == sample.metainfo
        for key in ('gt_sem_seg', 'gt_pseudo_mask'):
            old, new = sample.get(key).data, found.get(key).data
            assert new is not old and torch.equal(new, old)
