"""DSM, BBDM and SymmFlow behind the interfaces of SemFlow."""

import copy

import pytest
import torch
from mmengine.registry import MODELS as ROOT_MODELS
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import nn

from mmseg_semflow.models import Synthesizer
from tiny import CODEC, UNET, segmentor_cfg, semflow_cfg

DSM = dict(type='DSMModel', parts=(24, 12))
BBDM = dict(type='BBDMModel', parts=(12, 12))
BACK = dict(BBDM, direction='image_to_mask')
SYMMFLOW = dict(type='SymmFlowModel', parts=(24, 24))
NAMES = dict(DSMModel='DSM', BBDMModel='BBDM', SymmFlowModel='SymmFlow')
STEPS = [1, 2, 7, 60]


def cfg_of(type, parts, **kwargs):
    net = dict(
        type='VelocityUNet',
        prompt_length=3,
        unet=dict(UNET, in_channels=parts[0], out_channels=parts[1]))
    return semflow_cfg(**{'type': type, 'velocity_net': net, **kwargs})


def build(method, **kwargs):
    torch.manual_seed(0)
    model = ROOT_MODELS.build(cfg_of(**method, **kwargs))
    nn.init.normal_(model.velocity_net.unet.conv_out.weight, std=0.3)
    return model


def batch(model, count=2, size=(16, 24)):
    torch.manual_seed(1)
    labels = torch.randint(0, 5, (count, *size))
    labels[:, :4] = 255
    levels = model.codec.encode(labels)
    return torch.rand(count, 3, *size) * 2 - 1, model.codec.normalize(levels), labels


@pytest.mark.parametrize('method', [DSM, BBDM, BACK, SYMMFLOW])
@pytest.mark.parametrize('ignore_void', [False, True])
def test_gradients_reach_every_weight(method, ignore_void):
    model = build(method, ignore_void=ignore_void)
    losses = model.loss(*batch(model))
    assert all(key.startswith('loss') for key in losses)
    sum(losses.values()).backward()
    for name, weight in model.velocity_net.named_parameters():
        assert weight.grad is not None and weight.grad.isfinite().all(), name


@pytest.mark.parametrize('method', [DSM, BBDM, SYMMFLOW])
def test_void_counts_for_nothing(method):
    model = build(method)
    images, pseudo_masks, labels = batch(model)
    model.velocity_net.forward = lambda zt, t: zt[
        :, :method['parts'][1]].square()
    for model.ignore_void in (False, True):
        found = []
        for void_level in (-1., 1.):
            changed = pseudo_masks.clone()
            changed[:, :, :4] = void_level
            torch.manual_seed(2)
            found.append(sum(model.loss(images, changed, labels).values()))
        assert torch.equal(*found) == model.ignore_void


@pytest.mark.parametrize('method', [DSM, BBDM, SYMMFLOW])
def test_another_number_of_channels(method):
    wrong = dict(method, parts=(4, 4))
    with pytest.raises(ValueError, match=f'{method["type"]} takes .* '
                       'unet.in_channels .* must be .* but got 4'):
        build(wrong)


def test_dsm_with_the_unet_of_semflow():
    with pytest.raises(ValueError, match='takes 2 of them: unet.in_channels '
                       'of the velocity_net must be 24, but got 12'):
        build(dict(DSM, parts=(12, 12)))


class Oracle(nn.Module):
    """A network that knows the answer."""

    in_channels, out_channels, num_train_timesteps = 24, 12, 1000

    def __init__(self, answer):
        super().__init__()
        self.answer = answer
        self.calls = []

    def forward(self, z, t):
        self.calls.append(t[0].item())
        return self.answer(z, t)


@pytest.mark.parametrize('solver, num_steps, kind', [
    *((solver, n, 'epsilon') for solver in ('DDIMScheduler', 'DDPMScheduler')
      for n in (*STEPS, 61, 201, 400, 501, 1000)),
    ('DDIMScheduler', 7, 'sample'), ('DDPMScheduler', 7, 'sample'),
    ('DDIMScheduler', 7, 'v_prediction'), ('DDPMScheduler', 7, 'v_prediction'),
    *((solver, n, 'epsilon')
      for solver in ('DDIMParallelScheduler', 'DPMSolverMultistepScheduler',
                     'EulerDiscreteScheduler', 'EulerAncestralDiscreteScheduler',
                     'UniPCMultistepScheduler') for n in (4, 7))
])
def test_exact_noise_leads_to_the_exact_mask(solver, num_steps, kind):
    model = build(DSM, prediction_type=kind).double()
    images, pseudo_masks, labels = batch(model)
    images, pseudo_masks = images.double(), pseudo_masks.double()
    z0, z1 = model.encode_pair(images, pseudo_masks)
    alphas = model.schedule.alphas_cumprod.double()

    def noise(state, t):
        x, condition = state.chunk(2, 1)
        assert torch.equal(condition, z0)
        alpha = alphas[(t * 1000).round().long()].view(-1, 1, 1, 1)
        epsilon = (x - alpha.sqrt() * z1) / (1 - alpha).sqrt()
        return dict(
            epsilon=epsilon,
            sample=z1,
            v_prediction=alpha.sqrt() * epsilon - (1 - alpha).sqrt() * z1)[kind]

    model.velocity_net = Oracle(noise)
    assert model.loss(images, pseudo_masks, labels)['loss_denoise'] < 1e-9
    model.velocity_net.calls.clear()
    found = model.image_to_mask(images, num_steps, solver)
    torch.testing.assert_close(found, pseudo_masks.float(), atol=2e-3, rtol=0)
    valid = labels != 255
    assert torch.equal(model.codec.decode(found)[valid], labels[valid])
    calls = model.velocity_net.calls
    assert len(calls) == num_steps and calls[0] == pytest.approx(0.999)


def test_noisy_latents_are_those_of_eq_1():
    model = build(DSM)
    images, pseudo_masks, labels = batch(model, count=1)
    _, z1 = model.encode_pair(images, pseudo_masks)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000)**2
    alphas = (1 - betas).cumprod(0)
    seen = []

    def answer(state, t):
        seen.append((state[:, :12], round(t.item() * 1000)))
        return torch.zeros_like(state[:, :12])

    model.velocity_net = Oracle(answer)
    torch.manual_seed(5)
    loss = model.loss(images, pseudo_masks, labels)['loss_denoise']
    (x, timestep), = seen
    alpha = alphas[timestep]
    noise = (x - alpha.sqrt() * z1) / (1 - alpha).sqrt()
    assert loss.item() == pytest.approx(noise.square().mean().item(), rel=1e-3)


@pytest.mark.parametrize('method, to_image', [(BBDM, True), (BACK, False)])
@pytest.mark.parametrize('num_steps', STEPS)
def test_exact_difference_leads_to_the_exact_end(method, to_image, num_steps):
    model = build(method)
    images, pseudo_masks, labels = batch(model)
    z0, z1 = model.encode_pair(images, pseudo_masks)
    source, target = (pseudo_masks, images) if to_image else (
        images, pseudo_masks)
    end = z0 if to_image else z1
    model.velocity_net = Oracle(lambda z, t: z - end)
    assert model.loss(images, pseudo_masks, labels)['loss_bridge'] < 1e-9
    model.velocity_net.calls.clear()
    move = model.mask_to_image if to_image else model.image_to_mask
    torch.testing.assert_close(move(source, num_steps), target)
    assert len(model.velocity_net.calls) == num_steps
    assert model.velocity_net.calls[0] == float(to_image)


@pytest.mark.parametrize('num_steps', STEPS)
def test_exact_velocity_of_the_pair(num_steps):
    model = build(SYMMFLOW)
    images, pseudo_masks, _ = batch(model)
    z0, z1 = model.encode_pair(images, pseudo_masks)

    def velocity(state, t):
        # The ends that are given, the noise, are where the state began.
        if velocity.to_mask:
            begin.setdefault('noise', state.chunk(2, 1)[1])
            return torch.cat([-z0, z1 - begin['noise']], 1)
        begin.setdefault('noise', state.chunk(2, 1)[0])
        return torch.cat([begin['noise'] - z0, z1], 1)

    model.velocity_net = Oracle(velocity)
    for velocity.to_mask, source, target, move in (
            (True, images, pseudo_masks, model.image_to_mask),
            (False, pseudo_masks, images, model.mask_to_image)):
        begin = {}
        torch.testing.assert_close(
            move(source, num_steps), target, atol=1e-4, rtol=1e-4)


def test_velocity_that_is_learnt_of_the_pair():
    model = build(SYMMFLOW).double()
    images, pseudo_masks, labels = batch(model)
    images, pseudo_masks = images.double(), pseudo_masks.double()
    z0, z1 = model.encode_pair(images, pseudo_masks)

    def velocity(state, t):
        x, y = state.chunk(2, 1)
        t = t.view(-1, 1, 1, 1)
        return torch.cat([(x - z0) / t, (z1 - y) / (1 - t)], 1)

    model.velocity_net = Oracle(velocity)
    model.path.sample_time = lambda size, **kwargs: torch.full((size, ), 0.3)
    losses = model.loss(images, pseudo_masks, labels)
    assert losses['loss_image'] < 1e-9 and losses['loss_mask'] < 1e-9


@pytest.mark.parametrize('wrong, message', [
    (dict(direction='both'), "direction must be one of .* got 'both'"),
    (dict(eta=1.5), r'eta must be in \[0, 1\], but got 1.5'),
])
def test_settings_that_a_bridge_cannot_have(wrong, message):
    with pytest.raises(ValueError, match=message):
        build(BBDM, **wrong)


def test_a_segmentor_of_the_other_direction():
    with pytest.raises(ValueError, match='this BBDMModel learns mask_to_image '
                       'alone, but BBDM asks for image_to_mask'):
        segmentor(BBDM)


@pytest.mark.parametrize('method, move, direction', [
    (DSM, 'mask_to_image', 'image_to_mask alone, .* for mask_to_image'),
    (BBDM, 'image_to_mask', 'mask_to_image alone, .* for image_to_mask'),
    (BACK, 'mask_to_image', 'image_to_mask alone, .* for mask_to_image'),
])
def test_one_way_models(method, move, direction):
    model = build(method)
    with pytest.raises(ValueError, match=direction):
        getattr(model, move)(torch.zeros(1, 3, 16, 16), 1)


@pytest.mark.parametrize('method, test_cfg, message', [
    (DSM, dict(solver='euler'), "no scheduler 'euler'"),
    (DSM, dict(solver='DDIMSchedular'), "no scheduler 'DDIMSchedular'"),
    (DSM, dict(solver='UNet2DConditionModel'), 'no scheduler'),
    (DSM, dict(solver='SchedulerMixin'), 'does not remove the noise'),
    (DSM, dict(solver='DDIMInverseScheduler'), 'does not remove the noise'),
    (DSM, dict(solver='RePaintScheduler'), 'does not remove the noise'),
    (DSM, dict(solver='EDMEulerScheduler'), 'does not remove the noise'),
    (DSM, dict(num_steps=1001), 'at most num_train_timesteps=1000, but got 1001'),
    (DSM, dict(num_steps=0), 'num_steps must be an integer >= 1'),
    (BACK, dict(solver='euler'), "must be 'bridge' for BBDM"),
    (SYMMFLOW, dict(solver='bridge'), 'solver must be one of'),
    (SYMMFLOW, dict(num_step=5), "must have keys of .* got 'num_step'"),
])
def test_wrong_sampling(method, test_cfg, message):
    with pytest.raises(ValueError, match=message):
        segmentor(method, test_cfg)


def segmentor(method, test_cfg=None):
    cfg = segmentor_cfg(test_cfg)
    method = dict(method)
    name = NAMES[method['type']]
    torch.manual_seed(0)
    model = MODELS.build(dict(cfg, type=name, semflow=cfg_of(**method)))
    nn.init.normal_(model.semflow.velocity_net.unet.conv_out.weight, std=0.3)
    return model.eval()


@pytest.mark.parametrize('name', ['DSM', 'BBDM', 'SymmFlow'])
def test_an_adapter_refuses_another_model(name):
    with pytest.raises(ValueError, match=f'{name} needs semflow.type='
                       f"'{name}Model', but got 'SemFlowModel'"):
        MODELS.build(dict(segmentor_cfg(), type=name))


def labels_of(model, images):
    samples = [SegDataSample() for _ in images]
    return torch.cat([
        sample.pred_sem_seg.data for sample in model.predict(images, samples)])


@pytest.mark.parametrize('method, solver', [
    (DSM, 'DDIMScheduler'), (DSM, 'DDPMScheduler'), (BACK, 'bridge'),
    (SYMMFLOW, 'euler')])
def test_masks_depend_on_the_seed_and_not_on_the_batch(method, solver):
    model = segmentor(method, dict(num_steps=3, solver=solver))
    images = torch.rand(3, 3, 16, 24) * 2 - 1
    torch.manual_seed(1)
    together = labels_of(model, images)
    torch.manual_seed(2)
    alone = torch.cat([labels_of(model, image[None]) for image in images])
    assert torch.equal(together, alone)
    model.test_cfg.seed = 1
    assert not torch.equal(together, labels_of(model, images))


def test_masks_of_semflow_do_not_depend_on_a_seed():
    model = MODELS.build(segmentor_cfg()).eval()
    nn.init.normal_(model.semflow.velocity_net.unet.conv_out.weight, std=0.3)
    images = torch.rand(2, 3, 16, 24) * 2 - 1
    first = model.predict_pseudo_mask(images)
    model.test_cfg.seed = 1
    torch.manual_seed(7)
    assert torch.equal(first, model.predict_pseudo_mask(images))


@pytest.mark.parametrize('method', [BBDM, SYMMFLOW])
def test_images_differ_without_perturbation_too(method):
    labels = batch(build(method))[2][0]
    synthesizer = Synthesizer(
        build(method, codec=dict(CODEC, amplitude=0)), num_steps=3,
        num_samples=2)
    images = synthesizer(labels)
    assert torch.equal(images, synthesizer(labels))
    assert not torch.equal(images[0], images[1])


@pytest.mark.parametrize('method', [DSM, BBDM, BACK, SYMMFLOW])
def test_trajectories_end_at_the_result(method):
    model = build(method)
    images = batch(model)[0]
    to_mask = 'image_to_mask' in model.directions
    times = torch.linspace(0, 1, 5) if to_mask else torch.linspace(1, 0, 5)
    torch.manual_seed(3)
    states = model.transport(images, times, return_trajectory=True)
    assert states.shape == (5, *images.shape)
    torch.manual_seed(3)
    torch.testing.assert_close(states[-1], model.transport(images, times))


@pytest.mark.parametrize('method', [DSM, SYMMFLOW])
def test_tiles(method):
    model = build(method)
    images = batch(model, size=(24, 32))[0]
    times = torch.linspace(0, 1, 3)
    torch.manual_seed(3)
    whole = model.transport(images, times, tile_size=(24, 32))
    torch.manual_seed(3)
    torch.testing.assert_close(whole, model.transport(images, times))
    torch.manual_seed(3)
    tiled = model.transport(images, times, tile_size=(16, 16))
    assert tiled.shape == whole.shape and not torch.equal(tiled, whole)


def test_a_scheduler_of_several_calls_a_step():
    for num_steps, name in ((4, 'HeunDiscreteScheduler'),
                            (61, 'UniPCMultistepScheduler')):
        with pytest.raises(ValueError, match=f'for num_steps={num_steps}: one call'):
            build(DSM).check_sampling(num_steps, name)


@pytest.mark.parametrize('key', [
    'beta_schdule', 'prediction_type', 'num_train_timesteps'])
def test_settings_that_a_schedule_cannot_have(key):
    with pytest.raises(ValueError, match=f'must have keys of .* got {key!r}'):
        build(DSM, scheduler={key: 1})


def test_unknown_prediction():
    with pytest.raises(ValueError, match="prediction_type must be .* got 'v'"):
        build(DSM, prediction_type='v')


@pytest.mark.parametrize('method', [DSM, BBDM, SYMMFLOW])
def test_preconditioning_is_semflows(method):
    net = dict(
        type='VelocityUNet',
        end_std=(0.5, 1.),
        unet=dict(
            UNET, in_channels=method['parts'][0],
            out_channels=method['parts'][1]))
    with pytest.raises(ValueError, match='end_std .* must be None for '
                       f'{method["type"]}, but got'):
        build(method, velocity_net=net)


@pytest.mark.parametrize('source, target, message', [
    (BBDM, BACK, r'bridge of other .*: \[0.0, 0.5\], but \[1.0, 0.5\]'),
    (BBDM, dict(BBDM, max_variance=1.), 'bridge of other'),
    (DSM, dict(DSM, scheduler=dict(beta_end=0.02)), 'of other alphas'),
    (DSM, dict(DSM, prediction_type='sample'), 'prediction_type of other'),
    (None, BBDM, "not a checkpoint of BBDMModel: it has no 'bridge'"),
])
def test_a_checkpoint_of_another_training(source, target, message):
    weights = (
        build(source) if source else ROOT_MODELS.build(semflow_cfg()))
    with pytest.raises(ValueError, match=message):
        build(target).load_state_dict(weights.state_dict(), strict=False)


def test_a_checkpoint_in_bfloat16_is_the_same_training():
    weights = build(DSM).bfloat16().state_dict()
    model = build(DSM)
    alphas = model.alphas.clone()
    model.load_state_dict(weights)
    assert torch.equal(model.alphas, alphas)
    with pytest.raises(ValueError, match='of other alphas'):
        build(dict(DSM, scheduler=dict(beta_end=0.02))).load_state_dict(weights)


def test_generators_of_mmagic():
    pytest.importorskip('mmagic')
    from mmagic.registry import MODELS as MMAGIC_MODELS
    from mmagic.structures import DataSample
    from mmengine.registry import init_default_scope

    import mmseg_semflow.models.generators  # noqa: F401
    image = torch.randint(0, 256, (1, 3, 16, 24), dtype=torch.uint8)
    labels = torch.randint(0, 5, (1, 16, 24))
    init_default_scope('mmagic')
    try:
        for name, method in dict(
                BBDMGenerator=BBDM, SymmFlowGenerator=SYMMFLOW).items():
            model = MMAGIC_MODELS.build(
                dict(
                    type=name,
                    semflow=cfg_of(**copy.deepcopy(method)),
                    test_cfg=dict(num_steps=2, num_samples=2)))
            sample, = model.predict(
                DataSample.stack([
                    DataSample(
                        gt_img=image[0],
                        gt_label_map=labels[0],
                        metainfo=dict(img_path='a.png'))
                ]))
            assert sample.samples.shape == (2, 3, 16, 24)
        with pytest.raises(ValueError, match="BBDMGenerator needs semflow.type="
                           "'BBDMModel', but got 'SymmFlowModel'"):
            MMAGIC_MODELS.build(
                dict(type='BBDMGenerator', semflow=cfg_of(**SYMMFLOW)))
    finally:
        init_default_scope('mmseg')
