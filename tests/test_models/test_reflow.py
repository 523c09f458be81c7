"""Distillation: pairs of which a teacher drew the picture."""

import pytest
import torch
from mmengine.registry import MODELS
from mmengine.runner import load_checkpoint
from mmseg.models import BaseSegmentor
from test_losses import batch, build, loss_of
from torch import nn

from tiny import network_cfg, process_cfg, save_checkpoint, segmentor_cfg

MATCHING = dict(type='MatchingLoss')
NOISY = dict(type='RectifiedFlow', mask_noise=0.5)
PRECONDITIONED = dict(type='EndStdPreconditioning', end_std=(0.5, 1.))


@MODELS.register_module()
class RoadEverywhere(BaseSegmentor):
    """A segmentor whose answer is label 1."""

    def __init__(self, **kwargs):
        super().__init__(data_preprocessor=dict(type='SegDataPreProcessor'))
        self.align_corners = False

    def predict(self, inputs, data_samples):
        logits = torch.zeros(len(inputs), 5, *inputs.shape[2:])
        logits[:, 1] = 1
        return self.postprocess_result(logits, data_samples)

    extract_feat = encode_decode = loss = _forward = None


@pytest.fixture
def teacher(tmp_path):
    path = tmp_path / 'teacher.pth'
    save_checkpoint(path, process=NOISY, wrappers=[PRECONDITIONED])
    return str(path)


def reflow(teacher, **kwargs):
    return dict(type='ReflowLoss', teacher=teacher, **kwargs)


def student(teacher, same=True, **kwargs):
    """A model with the teacher's own weights, or with others."""
    cfg = segmentor_cfg(
        process=NOISY, wrappers=[PRECONDITIONED],
        losses=[MATCHING, reflow(teacher, **kwargs)])
    model = MODELS.build(dict(cfg, _scope_='mmseg'))
    if same:
        load_checkpoint(model, teacher, map_location='cpu')
    else:
        nn.init.normal_(model.semflow.network.unet.conv_out.weight, std=0.2)
    return model.semflow


def test_one_step_of_the_teacher_is_one_step_of_itself(teacher):
    model = student(teacher, num_steps=1, end_fraction=1.)
    losses = loss_of(model, *batch(model))
    assert losses['loss_reflow'].item() == pytest.approx(0, abs=1e-10)
    assert losses['reflow_kept'] == 1
    model = student(teacher, num_steps=2, end_fraction=1.)
    assert loss_of(model, *batch(model))['loss_reflow'] > 1e-4


def test_it_is_eq_10_of_what_the_teacher_draws(teacher):
    """Against what the model with the teacher's weights draws by itself."""
    of_teacher, model = student(teacher), student(
        teacher, same=False, num_steps=3, last_fraction=0.5, weight=0.7,
        end_fraction=0.5)
    images, masks, labels = batch(model)
    _, z1 = model.encode_pair(images, masks)
    torch.manual_seed(5)
    noisy = z1[2:] + 0.5 * torch.randn_like(z1[2:])
    torch.manual_seed(5)
    with torch.no_grad():
        z0 = of_teacher._solve(z1[2:], of_teacher.process.times(3, 1., 0.))
    torch.manual_seed(5)
    torch.randn_like(z1[2:])
    t = torch.rand(2)
    t[1] = 1.
    s = t.view(-1, 1, 1, 1)
    prediction = model.velocity((1 - s) * z0 + s * noisy, t)
    expected = 0.7 * (prediction - (noisy - z0)).square().mean()

    torch.manual_seed(5)
    step = type('Step', (), dict(z1=z1, label_maps=labels))
    found = model.losses[1](model, step)['loss_reflow']
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_the_student_learns_and_the_teacher_does_not(teacher):
    model = student(teacher, num_steps=4, end_fraction=1., last_fraction=1.)
    inputs = batch(model)
    optimizer = torch.optim.Adam(model.network.parameters(), 1e-3)
    before = loss_of(model, *inputs)['loss_reflow'].item()
    labels, z1 = inputs[2], model.encode_pair(*inputs[:2])[1]

    def drawn():
        torch.manual_seed(2)
        return model.losses[1].draw(model, z1, labels)[1]

    first = drawn()
    for _ in range(20):
        optimizer.zero_grad()
        loss_of(model, *inputs)['loss_reflow'].backward()
        optimizer.step()
    # With the same noise: what the student draws in a step and the teacher in four.
    assert loss_of(model, *inputs)['loss_reflow'] < 0.7 * before
    assert torch.equal(drawn(), first)
    assert not [key for key in model.state_dict() if 'losses' in key]


def test_pairs_whose_labels_drift_are_left_out(teacher):
    model = student(teacher, num_steps=2, min_agreement=1., last_fraction=1.)
    inputs = batch(model)
    losses = loss_of(model, *inputs)
    assert losses['reflow_kept'] == 0 and losses['loss_reflow'] == 0

    images, masks, labels = inputs
    _, z1 = model.encode_pair(images, masks)
    torch.manual_seed(3)
    with torch.no_grad():
        drawn = model.autoencoder.decode(
            model._solve(z1, model.process.times(2, 1., 0.)))
        found = model.codec.decode(model.image_to_mask(drawn, 1))
    valid = labels != 255
    shares = [((f == label) & v).sum() / v.sum()
              for f, label, v in zip(found, labels, valid, strict=True)]
    middle = float(sorted(shares)[2] - 1e-4)
    model.losses[1].min_agreement = middle
    torch.manual_seed(3)
    *_, kept = model.losses[1].draw(model, z1, labels)
    assert kept.tolist() == [float(share >= middle) for share in shares]
    assert kept.sum() == 2


def test_a_judge_decides_what_is_left_out(teacher, tmp_path):
    """A segmentor that finds road everywhere keeps what is road by a half."""
    config, checkpoint = tmp_path / 'road.py', tmp_path / 'road.pth'
    config.write_text("model = dict(type='RoadEverywhere')\n"
                      "test_pipeline = [dict(type='LoadImageFromFile'),"
                      " dict(type='PackSegInputs')]\n")
    torch.save(
        dict(state_dict={}, meta=dict(dataset_meta=dict(classes=tuple('abcde')))),
        checkpoint)
    judge = dict(
        type='SegmentorJudge', segmentor=str(config), checkpoint=str(checkpoint))
    model = student(
        teacher, num_steps=1, last_fraction=1., min_agreement=0.5, judge=judge)
    images, masks, labels = batch(model)
    labels[:] = 0
    for index, share in enumerate((0., 0.4, 0.6, 1.)):
        labels[index].view(-1)[:round(share * labels[index].numel())] = 1
    labels[1, :, -1] = 255
    _, z1 = model.encode_pair(images, masks)
    *_, kept = model.losses[1].draw(model, z1, labels)
    assert kept.tolist() == [0, 0, 1, 1]
    assert not [key for key in model.state_dict() if 'judge' in key]


@pytest.mark.parametrize('change, match', [
    (dict(judge=dict(type='SegmentorJudge', segmentor='x.py', checkpoint='x.pth')),
     'judge of ReflowLoss decides by min_agreement, but that is 0'),
    (dict(last_fraction=0.), r'last_fraction of ReflowLoss must be in \(0, 1\]'),
    (dict(end_fraction=1.5), r'end_fraction of ReflowLoss must be in \(0, 1\]'),
    (dict(min_agreement=2.), r'min_agreement of ReflowLoss must be in \[0, 1\]'),
    (dict(num_steps=0), 'num_steps of ReflowLoss must be >= 1, but got 0'),
])
def test_rules(change, match):
    with pytest.raises(ValueError, match=match):
        build(MATCHING, reflow('x.pth', **change))


def test_what_cannot_be_distilled():
    with pytest.raises(ValueError, match='but the process is a SymmetricFlow'):
        build(MATCHING, reflow('x.pth'), **process_cfg('symmflow'))
    style = dict(type='StyleToken', latent_channels=12, token_channels=16)
    with pytest.raises(ValueError, match='the wrapper StyleToken gives one'):
        build(MATCHING, reflow('x.pth'), wrappers=[style])


def test_teachers_that_do_not_fit(tmp_path):
    model = build(MATCHING, reflow(str(tmp_path / 'none.pth')), process=NOISY)
    with pytest.raises(FileNotFoundError, match=r'teacher of ReflowLoss: .*none\.pth'):
        loss_of(model, *batch(model))
    path = str(tmp_path / 'other.pth')
    save_checkpoint(path, process=NOISY, network=network_cfg(prompt_length=5))
    model = build(MATCHING, reflow(path), process=NOISY)
    with pytest.raises(ValueError, match=r'teacher of ReflowLoss, .*other\.pth, must '
                       'be a checkpoint of the model in training, but: .*: 1 keys'):
        loss_of(model, *batch(model))
    save_checkpoint(path, process=dict(NOISY, mask_noise=0.25))
    with pytest.raises(ValueError, match=r'other mask_noise: 0\.25, but 0\.5'):
        loss_of(model, *batch(model))
