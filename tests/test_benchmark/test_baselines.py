"""What the benchmark compares does the same work."""

import copy

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS

from mmseg_semflow.benchmark.baselines import (
    ReleasedStep,
    bare_step,
    colour_by_class,
    colouring_end,
    plain_batch,
    plain_loss,
    stock_pipeline,
)
from mmseg_semflow.benchmark.measure import TRANSFORMS
from mmseg_semflow.flow import PseudoMaskCodec
from tiny import CODEC, semflow_cfg, train_pipeline, transforms_pipeline


def losses_of(ways):
    """The losses of some ways with the same draws."""
    found = []
    for way in ways:
        torch.manual_seed(3)
        found.append(way())
    return found


def test_the_plain_step_is_the_same_step(bench, monkeypatch):
    # The same draws, in whatever order in memory an encoder leaves latents.
    monkeypatch.setattr(torch, 'randn_like', lambda x: torch.randn(x.shape))
    expected, *others = losses_of([
        lambda: bench._loss(bench._inputs()),
        lambda: bench._plain_loss(bench.model.semflow),
        lambda: bench._loss(
            bench._preprocessed(bench._packed(end=TRANSFORMS)))
    ])
    for found in others:
        torch.testing.assert_close(found, expected)


def test_the_step_from_latents_is_the_same_step(bench, monkeypatch):
    monkeypatch.setattr(torch, 'randn_like', lambda x: torch.randn(x.shape))
    data = bench._preprocessed(bench._packed(end=TRANSFORMS))
    cached = bench._cached(data['inputs'], bench._masks(data),
                           data['data_samples'])
    found, expected = losses_of([
        lambda: bench._loss(bench._preprocessed(cached)),
        lambda: bench._loss(data)
    ])
    torch.testing.assert_close(found, expected)


def test_the_released_step_is_the_plain_step(bench, monkeypatch):
    """In float32, without what it perturbs: the same loss, the same AdamW."""
    draw = torch.rand_like
    monkeypatch.setattr(torch, 'rand_like', lambda x: 0 * draw(x) + 0.5)
    # diffusers samples the posterior by a function of its own.
    for randn in ('randn_like', 'randn'):
        monkeypatch.setattr(torch, randn, lambda x, **_: torch.ones(
            getattr(x, 'shape', x)))
    semflow = copy.deepcopy(bench.model.semflow)
    batch = plain_batch(bench.samples, semflow.codec, perturbed=False)
    optimizer = dict(type='AdamW', lr=1e-2)
    released = ReleasedStep(semflow, optimizer, torch.float32)
    own = torch.optim.AdamW(semflow.network.parameters(), lr=1e-2)
    monkeypatch.setattr(
        torch, 'rand', lambda n, **_: torch.linspace(0.2, 0.9, n))
    for _ in range(2):
        found = released(*batch)
        loss = plain_loss(semflow, *batch)
        loss.backward()
        own.step()
        own.zero_grad()
        assert found == pytest.approx(loss.item(), rel=1e-4)
    for found, expected in zip(
            released.unet.parameters(), semflow.network.parameters(), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_the_released_step_is_of_stable_diffusion():
    with pytest.raises(ValueError, match='must be one, but got PatchAutoencoder'):
        ReleasedStep(MODELS.build(semflow_cfg()), dict(type='AdamW'))


def test_the_plain_step_keeps_the_wrappers_of_the_network():
    model = MODELS.build(
        semflow_cfg(wrappers=[
            dict(type='EndStdPreconditioning', end_std=(0.5, 1.))
        ]))
    images, masks = torch.rand(2, 2, 3, 24, 32)
    found, expected = losses_of([
        lambda: plain_loss(model, images, masks),
        lambda: model.loss(images, masks, torch.zeros(2, 24, 32).long())
    ])
    torch.testing.assert_close(found, expected['loss_flow'])


def test_the_bare_loop_is_the_same_iteration(bench):
    batch, = bench.runner.build_dataloader(bench.runner._train_dataloader)
    one, other = copy.deepcopy(bench.model), copy.deepcopy(bench.model)
    wrappers = [
        build_optim_wrapper(model, bench.cfg.optim_wrapper)
        for model in (one, other)
    ]
    torch.manual_seed(5)
    one.train_step(batch, wrappers[0])
    torch.manual_seed(5)
    bare_step(other, wrappers[1], batch)
    moved = 0
    for (name, found), expected, before in zip(
            one.named_parameters(), other.parameters(),
            bench.model.parameters(), strict=True):
        torch.testing.assert_close(found, expected, msg=name)
        moved += not torch.equal(found, before)
    assert moved


def test_colours_by_class_are_those_of_the_codec():
    codec = PseudoMaskCodec(**CODEC)
    labels = torch.tensor([[0, 1, 2], [3, 4, 255]])
    assert torch.equal(
        colour_by_class(labels, codec).movedim(-1, 0), codec.encode(labels[None])[0])


def test_the_pipeline_without_and_with_the_transforms():
    stock = train_pipeline()
    assert stock_pipeline(stock) == stock
    mixed = transforms_pipeline()
    assert stock_pipeline(mixed) == stock
    assert [*stock[:-1], *colouring_end(stock[-1], CODEC)] == mixed
    for wrong in (stock[:-1], []):
        with pytest.raises(ValueError, match="must end in one of .*'PackSegInputs'"):
            stock_pipeline(wrong)
