"""The GANs that SemFlow is compared with."""

import copy
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import Runner
from torch import nn

from mmseg_semflow.apis.loading import load_weights
from tiny import (
    CODEC,
    TEST_PIPELINE,
    listen,
    run_test,
    runner_cfg,
    save_checkpoint,
    segmentor_cfg,
    write_street,
)

if find_spec('mmagic') is None:
    pytest.skip('needs mmagic', allow_module_level=True)

from mmseg_semflow.comparison.gans import (  # isort: skip
    GlobalGenerator,
    SCGANGenerator,
    SPADEGenerator,
    mask_to_image,
)
from mmagic.registry import MODELS
from mmagic.structures import DataSample

from mmseg_semflow.comparison.gans.gan_networks import (
    SpatiallyAdaptiveNorm,
    SpatiallyConditionalConv,
    SpatiallyConditionalNorm,
)

IN = dict(type='IN')
ADAM = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-3))
OPTIM_WRAPPER = dict(
    constructor='MultiOptimWrapperConstructor',
    generators=ADAM,
    discriminators=ADAM)


def patch_cfg(in_channels):
    return dict(
        type='PatchDiscriminator',
        in_channels=in_channels,
        base_channels=4,
        num_conv=1,
        norm_cfg=IN)


def multi_scale_cfg(**kwargs):
    return dict(
        type='MultiScalePatchDiscriminator', patch=patch_cfg(9), **kwargs)


GANS = dict(
    MaskPix2Pix=dict(
        size_divisor=64,
        generator=dict(
            type='UnetGenerator',
            in_channels=3,
            out_channels=3,
            num_down=6,
            base_channels=4,
            norm_cfg=IN,
            use_dropout=True),
        discriminator=patch_cfg(6)),
    MaskCycleGAN=dict(
        size_divisor=4,
        generator=dict(
            type='ResnetGenerator',
            in_channels=3,
            out_channels=3,
            base_channels=4,
            num_blocks=1),
        discriminator=patch_cfg(3),
        loss_config=dict(cycle_loss_weight=10., id_loss_weight=0.)),
    Pix2PixHD=dict(
        size_divisor=4,
        generator=dict(
            type='GlobalGenerator',
            in_channels=6,
            base_channels=4,
            num_down=2,
            num_blocks=1),
        discriminator=multi_scale_cfg()),
    SPADE=dict(
        generator=dict(
            type='SPADEGenerator',
            size=(24, 32),
            mask_channels=6,
            channels=(8, 8, 4),
            z_channels=4,
            hidden_channels=4),
        discriminator=multi_scale_cfg(spectral=True)),
    SCGAN=dict(
        generator=dict(
            type='SCGANGenerator',
            size=(24, 32),
            mask_channels=6,
            channels=(8, 8, 4),
            vector_channels=(9, 6, 6),
            z_channels=4,
            hidden_channels=4),
        discriminator=multi_scale_cfg(spectral=True)))
STOCHASTIC = ('MaskPix2Pix', 'SPADE', 'SCGAN')
ONE_HOT = ('Pix2PixHD', 'SPADE', 'SCGAN')
EVERY_GAN = pytest.mark.parametrize('name', GANS)


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope('mmagic')


def gan_cfg(name, **kwargs):
    return copy.deepcopy(
        dict(
            type=name,
            data_preprocessor=dict(
                type='MaskTranslationDataPreProcessor',
                codec=CODEC,
                one_hot=name in ONE_HOT),
            test_cfg=dict(num_samples=2),
            **GANS[name]) | kwargs)


def build(name, **kwargs):
    model = MODELS.build(gan_cfg(name, **kwargs))
    model.init_weights()
    return model


def gan_runner(name, street, work_dir, metrics=(), max_iters=1):
    cfg = runner_cfg(street, work_dir, max_iters=max_iters)
    cfg.default_scope = 'mmagic'
    cfg.experiment_name = str(work_dir)
    cfg.model = gan_cfg(name)
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset._scope_ = 'mmseg'
    cfg.optim_wrapper = OPTIM_WRAPPER
    cfg.val_evaluator = dict(
        type='Evaluator', metrics=[dict(type='SampleDiversity'), *metrics])
    cfg.test_evaluator = copy.deepcopy(cfg.val_evaluator)
    cfg.val_cfg = dict(type='MultiValLoop')
    cfg.test_cfg = dict(type='MultiTestLoop')
    cfg.default_hooks.pop('visualization')
    cfg.pop('visualizer')
    return Runner.from_cfg(cfg)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Two pairs of the test data, as a loader gives them."""
    init_default_scope('mmseg')
    root = write_street(tmp_path_factory.mktemp('gans') / 'street')
    dataset = DATASETS.build(runner_cfg(root, root).test_dataloader.dataset)
    items = [dataset[i] for i in range(2)]
    return {key: [item[key] for item in items] for key in items[0]}


def label_map(height=24, width=32):
    labels = torch.arange(height * width).reshape(height, width) // 100 % 5
    labels[:2] = 255
    return labels


@EVERY_GAN
def test_a_step_trains_every_parameter(name, data):
    """One step reaches all parameters of all networks."""
    model = build(name)
    MessageHub.get_current_instance().update_info('iter', 0)
    optim_wrapper = build_optim_wrapper(model, OPTIM_WRAPPER)
    before = copy.deepcopy(dict(model.named_parameters()))
    gradients = {}
    for key, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(
            lambda p, key=key: gradients.update({key: p.grad.clone()}))
    model.train()
    losses = model.train_step(data, optim_wrapper)
    assert losses['loss'].isfinite()
    assert sum(key.startswith('loss_gan') for key in losses) >= 3
    for key, parameter in model.named_parameters():
        assert gradients[key].isfinite().all(), key
        # A bias before a normalisation of instances does nothing.
        if not key.endswith('bias'):
            assert not torch.equal(parameter, before[key]), key


@EVERY_GAN
def test_it_trains_and_is_measured(name, street, tmp_path):
    """By the Runner; a checkpoint brings the same figures again."""
    runner = gan_runner(name, street, tmp_path / 'work')
    found = listen(runner)
    runner.train()
    assert name in STOCHASTIC or found['diversity'] == 0
    trained = dict(found)
    found.clear()
    for parameter in runner.model.parameters():
        nn.init.zeros_(parameter)
    load_weights(
        runner.model, tmp_path / 'work/iter_1.pth', strict=True)
    runner.test()
    assert found == trained


@EVERY_GAN
def test_results_are_those_the_metrics_read(name, data):
    results = build(name).eval().test_step(data)
    for image, result in zip(data['inputs'], results, strict=True):
        assert isinstance(result, DataSample)
        assert torch.equal(result.gt_img, image)
        assert result.samples.shape == (2, 3, 24, 32)
        assert result.samples.dtype == torch.uint8
        assert torch.equal(result.samples[0], result.fake_img)
        assert torch.equal(result.output.pred_img, result.fake_img)
        assert result.gt_label_map.shape == (24, 32)
        assert result.protocol == f'2 samples per mask, {name}, seed 0'


def synthesised(model, labels, number):
    image, = model.sampler().synthesize([(labels, number)])
    return image


@EVERY_GAN
def test_same_seed_same_bytes_whatever_else_is_sampled(name):
    model = build(name).eval()
    for parameter in model.generators.parameters():
        nn.init.normal_(parameter, std=0.3)  # so that all noise is seen
    labels = label_map()
    samples = model.sampler()(labels)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(synthesised(model, labels, 1), samples[1])
    assert torch.rand(1) == expected
    model.train()
    model.eval()
    assert torch.equal(synthesised(model, labels, 0), samples[0])
    model.test_cfg['seed'] = 1
    differ = not torch.equal(synthesised(model, labels, 0), samples[0])
    assert differ == (name in STOCHASTIC)
    assert torch.equal(samples[0], samples[1]) == (name not in STOCHASTIC)


@EVERY_GAN
def test_images_are_brought_to_the_size_of_the_settings(name):
    model = build(name, test_cfg=dict(size=(24, 32))).eval()
    found = model.sampler().evaluate(
        torch.zeros(3, 50, 70, dtype=torch.uint8), label_map(100, 140))
    assert found['gt_img'].shape == found['fake_img'].shape == (3, 24, 32)
    assert found['gt_label_map'].shape == (24, 32)


def test_translation_pads_and_crops():
    """The image is that of the mask padded by its last row and column."""
    model = build('MaskCycleGAN').eval()
    mask = torch.rand(1, 3, 22, 30)
    padded = nn.functional.pad(mask, (0, 2, 0, 2), mode='replicate')
    assert torch.equal(
        model.translation(mask),
        model.generators['photo'](padded)[..., :22, :30])


def test_losses_of_pix2pixhd_and_spade():
    """Against the formulas, on what the discriminators return."""
    predictions = [torch.full((1, 1, 2, 2), v) for v in (0.25, -0.5)]
    hd, spade = build('Pix2PixHD'), build('SPADE')
    assert hd._adversarial(predictions, True).item() == pytest.approx(
        (0.75**2 + 1.5**2) / 2)
    assert hd._adversarial(predictions, False, True).item() == pytest.approx(
        (0.25**2 + 0.5**2) / 2)
    assert spade._adversarial(predictions, True).item() == pytest.approx(0.125)
    assert spade._adversarial(predictions, True, True).item() == pytest.approx(
        (0.75 + 1.5) / 2)
    assert spade._adversarial(predictions, False, True).item() == pytest.approx(
        (1.25 + 0.5) / 2)
    photo = torch.rand(2, 3, 24, 32)
    outputs = dict(
        real_mask=torch.rand(2, 6, 24, 32), real_photo=photo, fake_photo=photo)
    assert hd._get_gen_loss(outputs)[1]['loss_feature'] == 0
    outputs['fake_photo'] = photo.flip(0)
    assert hd._get_gen_loss(outputs)[1]['loss_feature'] > 0


def test_masks_are_one_hot_with_void_last():
    encoder = build('SPADE').data_preprocessor
    labels = label_map()[None]
    mask = encoder.encode(labels)
    assert mask.shape == (1, 6, 24, 32)
    assert torch.equal(mask.sum(1), torch.ones(1, 24, 32))
    assert torch.equal(mask.argmax(1), labels.where(labels < 5, 5))
    with pytest.raises(ValueError, match=r'labels \[7\]: labels must be below'):
        encoder.encode(labels.where(labels < 5, 7))


def test_masks_are_the_colours_of_the_codec():
    encoder = build('MaskPix2Pix').data_preprocessor
    colours = encoder.encode(label_map()[None])
    assert torch.equal(
        encoder.codec.decode(colours)[0, 2:], label_map()[2:])
    assert torch.equal(colours[0, :, 0, 0], encoder.codec.normalize(
        encoder.codec.void_level))


def test_spatially_adaptive_norm_is_its_equation():
    norm = SpatiallyAdaptiveNorm(3, 2, 4)
    x, mask = 5 + 2 * torch.randn(8, 3, 6, 6), torch.rand(8, 2, 12, 12)
    hidden = norm.hidden(mask[..., ::2, ::2])
    mean, var = x.mean((0, 2, 3), True), x.var((0, 2, 3), False, True)
    expected = (1 + norm.gamma(hidden)) * (x - mean) / (
        var + 1e-5).sqrt() + norm.beta(hidden)
    torch.testing.assert_close(norm(x, mask), expected)


def weights_of(*shape):
    return torch.randn(shape).softmax(1)


def test_spatially_conditional_conv_mixes_the_kernel_of_every_position():
    """Against one product of patch and mixed kernel per position."""
    conv = SpatiallyConditionalConv(2, 4, 3)
    x, weights = torch.randn(2, 2, 5, 6), weights_of(2, 3, 5, 6)
    kernels = torch.stack([one.weight for one in conv.candidates])
    mixed = torch.einsum('bnhw,nocij->bhwocij', weights, kernels)
    patches = nn.functional.pad(x, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1)
    expected = torch.einsum('bhwocij,bchwij->bohw', mixed, patches)
    torch.testing.assert_close(conv.eval()(x, weights), expected)


def test_spatially_conditional_norm_is_its_equation():
    norm = SpatiallyConditionalNorm(4, 3)
    x, weights = 5 + 2 * torch.randn(8, 4, 6, 6), weights_of(8, 3, 6, 6)
    mean, var = x.mean((0, 2, 3), True), x.var((0, 2, 3), False, True)
    normal = (x - mean) / (var + 1e-5).sqrt()
    torch.testing.assert_close(norm(x, weights), normal)
    nn.init.normal_(norm.candidates)
    scale, shift = (
        sum(weights[:, i, None] * part[i, :, None, None] for i in range(3))
        for part in norm.candidates.split(4, 1))
    torch.testing.assert_close(
        norm(x, weights), (1 + scale) * normal + shift)


def test_weights_are_the_softmax_of_averaged_groups_of_vectors():
    generator = build('SCGAN').generators['photo']
    mask = weights_of(2, 6, 24, 32)
    generator.temperature = 3.
    vectors = generator.vectors(mask)
    assert [tuple(v.shape[1:]) for v in vectors] == [(9, 6, 8), (6, 12, 16),
                                                     (6, 24, 32)]
    conditions = generator.conditions(mask)
    for (same, weights), found in zip(conditions, vectors, strict=True):
        assert same is mask
        groups = torch.stack([group.mean(1) for group in found.chunk(3, 1)], 1)
        torch.testing.assert_close(weights, (3 * groups).softmax(1))


def test_semantic_vectors_see_the_mask_at_every_scale():
    """A changed pixel moves the vectors around it and none far from it."""
    vectors = build('SCGAN').generators['photo'].vectors
    mask = torch.zeros(1, 6, 24, 32)
    changed = mask.clone()
    changed[0, 2, 0, 0] = 1
    for before, after in zip(vectors(mask), vectors(changed), strict=True):
        differ = (before != after).any(1)[0]
        assert differ[0, 0]
        assert not differ[:, -1].any()


def test_the_regression_of_scgan_is_the_mean_distance():
    model = build('SCGAN', loss_config=dict(regression_loss_weight=2.))
    vectors = model.generators['photo'].vectors
    outputs = dict(
        real_mask=weights_of(2, 6, 24, 32),
        real_photo=torch.rand(2, 3, 24, 32),
        fake_photo=torch.rand(2, 3, 24, 32))
    guess = vectors.regress(outputs['real_mask'])
    loss, found = model._get_gen_loss(outputs)
    assert found['loss_regression'].item() == pytest.approx(
        2 * (guess - outputs['real_photo']).abs().mean().item())
    assert loss.item() == pytest.approx(
        sum(found[key].item() for key in found if key != 'loss'))
    outputs['real_photo'] = guess.detach()
    assert model._get_gen_loss(outputs)[1]['loss_regression'] == 0


def test_convolutions_of_spade_have_norm_1():
    for model in (build('SPADE').generators, build('SPADE').discriminators):
        found = [
            torch.linalg.matrix_norm(module.weight.flatten(1), 2).item()
            for module in model.modules()
            if nn.utils.parametrize.is_parametrized(module, 'weight')
        ]
        assert len(found) >= 6
        np.testing.assert_allclose(found, 1, rtol=0.1)


def test_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match=r'multiples of .* = 4, but got \(6, 8\)'):
        SPADEGenerator((6, 8), 6, (4, 4, 4))
    spade = SPADEGenerator((8, 8), 6, (4, 4))
    with pytest.raises(ValueError, match=r'size=\(8, 8\) .* but got \(8, 12\)'):
        spade(torch.zeros(1, 6, 8, 12))
    with pytest.raises(ValueError, match=r'channels, 2, but got \(4, 4, 4\)'):
        SCGANGenerator((8, 8), 6, (4, 4), (4, 4, 4))
    generator = GlobalGenerator(6, 4, num_down=2, num_blocks=1)
    with pytest.raises(ValueError, match=r'= 4, but got \(8, 10\)'):
        generator(torch.zeros(1, 6, 8, 10))


def test_wrong_settings_are_refused_when_it_is_built():
    with pytest.raises(ValueError, match='num_samples must be an integer >= 1'):
        build('SPADE', test_cfg=dict(num_samples=0))
    with pytest.raises(ValueError, match='size_divisor must be >= 1, .* got 0'):
        build('SPADE', size_divisor=0)


def test_several_processes_are_refused(monkeypatch):
    model = build('MaskPix2Pix')
    monkeypatch.setattr(mask_to_image, 'get_world_size', lambda: 2)
    with pytest.raises(RuntimeError, match='in 1 process, but got 2'):
        model.train_step(dict(), None)


def test_an_independent_segmentor_judges(street, tmp_path):
    config, checkpoint = tmp_path / 'judge.py', tmp_path / 'judge.pth'
    Config(dict(model=segmentor_cfg(), test_pipeline=TEST_PIPELINE)).dump(config)
    save_checkpoint(checkpoint)
    runner = gan_runner('SPADE', street, tmp_path / 'work', [
        dict(
            type='MaskConsistency',
            segmentor=str(config),
            checkpoint=str(checkpoint))
    ])
    assert 0 <= run_test(runner)['mask_mIoU'] <= 100


def test_a_gan_does_not_judge_itself(street, tmp_path):
    runner = gan_runner('SPADE', street, tmp_path / 'work',
                        [dict(type='MaskConsistency')])
    with pytest.raises(ValueError, match='needs sample_label_maps'):
        runner.test()
