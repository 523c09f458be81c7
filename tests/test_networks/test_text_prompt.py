"""The scene and the classes of a picture as text."""

import shutil
from contextlib import contextmanager

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn
from transformers import CLIPTextModel

from bases import parts_of
from mmseg_semflow.apis.loading import load_weights
from mmseg_semflow.networks import TextPrompt
from mmseg_semflow.networks.null_prompt import encode_prompts
from mmseg_semflow.synthesis import (
    LatentStatistics,
    MultiResolutionFusion,
    Styles,
    Synthesizer,
    TextStyle,
)
from tiny import network_cfg, segmentor_cfg, semflow_cfg, write_sd_folder

CLASSES = ('a', 'bike', 'c', 'd', 'e')
SCENE = 'a street'


@pytest.fixture(scope='module')
def sd_folder(tmp_path_factory):
    torch.manual_seed(0)
    return write_sd_folder(tmp_path_factory.mktemp('text') / 'sd')


def cfg(folder=None, **kwargs):
    return dict(
        type='TextPrompt', classes=CLASSES, scene=SCENE, token_channels=16,
        sd_folder=None if folder is None else str(folder)) | kwargs


def build(folder=None, **kwargs):
    prompt = MODELS.build(cfg(folder, **kwargs))
    prompt.init_weights()
    return prompt


def model_cfg(folder):
    return dict(
        network=network_cfg(prompt_length=77), wrappers=[cfg(folder)])


@pytest.fixture(scope='module')
def semflow(sd_folder):
    """A model that has learned nothing, but reads."""
    torch.manual_seed(0)
    semflow = MODELS.build(semflow_cfg(**model_cfg(sd_folder)))
    semflow.init_weights()
    nn.init.normal_(semflow.network.unet.conv_out.weight, std=0.3)
    return semflow.eval()


def label_maps(*classes):
    """Maps (B, 6, 8) whose columns are of one class each."""
    return torch.stack([
        torch.tensor(list(part) * 8)[:8].expand(6, 8) for part in classes])


@contextmanager
def conditions(module):
    """Collect the conditions that a module is called with."""
    seen = []
    handle = module.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs.get('condition', args[-1])),
        with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def test_the_prompt_is_the_scene_and_the_names_of_the_classes(sd_folder):
    prompt = build(sd_folder)
    encoder = CLIPTextModel.from_pretrained(sd_folder / 'text_encoder')
    scene, _ = encode_prompts(sd_folder, [SCENE])
    found = prompt.prompt(prompt.shares(label_maps([0, 1, 1, 1], [2])))
    for row, present in zip(found, ((1, 0), (2, )), strict=True):
        torch.testing.assert_close(row[:72], scene[0, :72])
        names = []
        for label in present:
            embedding, length = encode_prompts(sd_folder, [CLASSES[label]])
            # The end of the text, by what the tokenizer of the tests knows.
            assert int(length) == len(CLASSES[label]) + 2
            names.append(embedding[0, int(length) - 1])
        padding = scene[0, 72 + len(present):]
        expected = torch.cat([torch.stack(names), padding])
        torch.testing.assert_close(row[72:], expected)
    assert encoder.config.hidden_size == found.shape[-1]


def test_the_classes_of_most_pixels_are_named(sd_folder):
    prompt = build(sd_folder, max_classes=2)
    maps = label_maps([0, 1, 1, 1, 4, 4, 4, 4])
    found = prompt.prompt(prompt.shares(maps))
    torch.testing.assert_close(found[0, -2:], prompt.names[[4, 1]])


def test_shares_are_those_of_all_pixels():
    maps = label_maps([0, 0, 0, 255], [4, 2])
    expected = torch.tensor([[0.75, 0, 0, 0, 0], [0, 0, 0.5, 0, 0.5]])
    torch.testing.assert_close(build().shares(maps), expected)


def test_segmentation_reads_nothing(semflow):
    plain = MODELS.build(semflow_cfg(network=network_cfg(prompt_length=77))).eval()
    plain.network.load_state_dict(semflow.network.state_dict())
    image = torch.rand(2, 3, 24, 32)
    assert torch.equal(semflow.image_to_mask(image, 2), plain.image_to_mask(image, 2))
    mask = torch.rand(2, 3, 24, 32)
    assert not torch.allclose(
        semflow.mask_to_image(mask, 2), plain.mask_to_image(mask, 2))
    assert semflow.stochastic == ()


def test_the_text_is_dropped_for_its_part_and_at_the_start():
    torch.manual_seed(1)
    prompt = build(dropout=0.25)
    t = torch.tensor([0.] * 500 + [0.5] * 2000)
    z = torch.zeros(2500, 1, 1, 1)
    found = prompt.training_condition(z, z, t, torch.zeros(2500, 1, 1).long())
    kept = found['has_text']
    assert not kept[:500].any()
    assert abs(kept[500:].float().mean() - 0.75) < 4 * (0.75 * 0.25 / 2000)**0.5


def test_dropped_samples_of_a_batch_get_the_null_prompt(semflow):
    prompt, net = semflow.wrappers[0], semflow.network
    zt, t = torch.randn(2, 12, 8, 8), torch.rand(2)
    shares = prompt.shares(label_maps([0], [1]))
    found = prompt(net, zt, t, dict(
        classes=shares, has_text=torch.tensor([True, False])))
    torch.testing.assert_close(found[0], prompt(net, zt, t, dict(classes=shares))[0])
    torch.testing.assert_close(found[1], net(zt, t)[1])
    assert not torch.allclose(found[0], net(zt, t)[0])


def test_synthesis_reads_the_classes_of_its_mask_but_not_void(semflow):
    labels = label_maps([3, 255, 255, 255])[0].repeat(4, 4)
    with conditions(semflow.wrappers[0]) as seen:
        Synthesizer(semflow, 1)(labels)
    torch.testing.assert_close(seen[0]['classes'], torch.tensor([[0, 0, 0, 0.25, 0]]))


def test_training_reads_too(semflow):
    torch.manual_seed(0)
    maps = torch.ones(8, 24, 32, dtype=torch.long)
    images = torch.rand(8, 3, 24, 32)
    with conditions(semflow.network) as seen:
        semflow.loss(images, images, maps)['loss_flow'].backward()
    shares = semflow.wrappers[0].shares(maps)
    torch.testing.assert_close(
        seen[0]['prompt'], semflow.wrappers[0].prompt(shares))
    assert 0 < seen[0]['has_prompt'].sum() < 8


def test_a_checkpoint_reads_without_the_encoder(semflow, tmp_path):
    """What it needs of the text of its training is in it."""
    state_dict = {f'semflow.{k}': v for k, v in semflow.state_dict().items()}
    assert len([key for key in state_dict if 'wrappers' in key]) == 2
    torch.save(dict(state_dict=state_dict), tmp_path / 'iter_1.pth')
    segmentor = MODELS.build(segmentor_cfg(**model_cfg(tmp_path / 'gone')))
    load_weights(segmentor, tmp_path / 'iter_1.pth')
    labels = torch.randint(0, 5, (24, 32))
    found = Synthesizer(segmentor.semflow.eval(), 2)(labels)
    assert torch.equal(found, Synthesizer(semflow, 2)(labels))
    with pytest.raises(FileNotFoundError, match='gone is not a folder.*text_encoder'):
        TextStyle(segmentor.semflow, ['fog'])
    segmentor.semflow.wrappers[0].sd_folder = None
    with pytest.raises(ValueError, match='set sd_folder of TextPrompt in the wrappers'):
        TextStyle(segmentor.semflow, ['fog'])


def test_further_words_follow_the_scene(semflow, sd_folder):
    found = semflow.wrappers[0].encode_texts(['fog', ''])
    expected, _ = encode_prompts(sd_folder, [f'{SCENE}, fog', SCENE])
    torch.testing.assert_close(found, expected)


def test_another_encoder_is_refused(semflow, sd_folder, tmp_path):
    torch.manual_seed(5)
    other = write_sd_folder(tmp_path / 'sd')
    shutil.rmtree(other / 'tokenizer')
    shutil.copytree(sd_folder / 'tokenizer', other / 'tokenizer')
    segmentor = MODELS.build(segmentor_cfg(**model_cfg(other)))
    segmentor.semflow.load_state_dict(semflow.state_dict())
    with pytest.raises(
            ValueError, match="sd/text_encoder is not that of the training, or the "
            "scene was not 'a street'"):
        TextStyle(segmentor.semflow, ['fog'])


def test_texts_change_pictures_by_their_number(semflow):
    labels = torch.randint(0, 5, (24, 32))
    plain = Synthesizer(semflow, 2, num_samples=4)(labels)
    styled = Synthesizer(
        semflow, 2, num_samples=4, style=TextStyle(semflow, ['', 'night']))
    found = styled(labels)
    same = [torch.equal(*pair) for pair in zip(found, plain, strict=True)]
    assert same == [True, False, True, False]
    assert styled.settings['style'] == dict(type='TextStyle', texts=['', 'night'])
    assert "['', 'night']" in styled.protocol
    assert styled.style.record(3) == dict(style_text='night')


def test_both_passes_of_a_fusion_have_one_text(semflow):
    style = TextStyle(semflow, ['fog', 'night'])
    fusion = MultiResolutionFusion(semflow, (12, 16), num_steps=1, style=style)
    with conditions(semflow.wrappers[0]) as seen:
        fusion.synthesize([(torch.randint(0, 5, (24, 32)), 1)])
    assert len(seen) > 2
    assert all(torch.equal(one['text'], style.embeddings[1:]) for one in seen)


def test_styles_of_words_and_of_pictures_go_together(semflow):
    labels = torch.randint(0, 5, (24, 32))
    statistics = LatentStatistics(torch.zeros(12), torch.ones(12), strength=0.5)
    words = TextStyle(semflow, ['night'])
    found = {
        Synthesizer(semflow, 2, style=style)(labels).numpy().tobytes()
        for style in (words, statistics, Styles([words, statistics]))
    }
    assert len(found) == 3
    # Each alone, through the one that holds it.
    for style in (words, statistics):
        assert torch.equal(
            Synthesizer(semflow, 2, style=Styles([style]))(labels),
            Synthesizer(semflow, 2, style=style)(labels))
    both = Synthesizer(semflow, 2, style=Styles([words, statistics]))
    assert both.settings['style'] == dict(styles=[words.settings, statistics.settings])
    assert both.style.record(0) == dict(style_text='night')
    with pytest.raises(ValueError, match='have no TextPrompt'):
        Synthesizer(MODELS.build(semflow_cfg()), 2, style=both.style)


def test_a_model_without_text_refuses_texts():
    with pytest.raises(
            ValueError, match=r"texts \['fog'\] are for a model .* have no TextPrompt"):
        TextStyle(MODELS.build(semflow_cfg()), ['fog'])


@pytest.mark.parametrize('texts', ['fog', []])
def test_wrong_texts(semflow, texts):
    with pytest.raises(ValueError, match='texts must be a list of texts, but got'):
        TextStyle(semflow, texts)


@pytest.mark.parametrize('name', ['sd3', 'pixart', 'dit'])
def test_a_transformer_has_another_prompt(name):
    network, autoencoder = parts_of(name)
    with pytest.raises(ValueError, match='TextPrompt is for .* but the '
                       'network is a VelocityTransformer: take TextPrompt out of wrap'):
        MODELS.build(semflow_cfg(
            network=network, autoencoder=autoencoder, wrappers=[cfg()]))


@pytest.mark.parametrize('kwargs', [dict(token_channels=8), dict(prompt_length=40)])
def test_a_unet_with_a_prompt_of_another_shape(kwargs):
    with pytest.raises(ValueError, match='prompt_length and token_channels of .* must '
                       'be the same'):
        MODELS.build(semflow_cfg(
            network=network_cfg(prompt_length=77), wrappers=[cfg(**kwargs)]))


def test_texts_that_are_too_long(semflow, sd_folder):
    with pytest.raises(ValueError, match='fog.* has 74 tokens, but the names of 5 '
                       'classes leave room for 72'):
        TextStyle(semflow, ['fog ' * 20 + 'fogs'])
    with pytest.raises(ValueError, match="x' has 82 tokens, but the text encoder of "
                       '.*sd reads 77'):
        encode_prompts(sd_folder, ['x' * 80])


def test_an_encoder_of_another_width_is_refused(sd_folder):
    with pytest.raises(
            ValueError, match=r'text_encoder makes embeddings of \(77, 16\), but this '
            r'config wants \(77, 8\)'):
        build(sd_folder, token_channels=8)


@pytest.mark.parametrize('kwargs, match', [
    (dict(dropout=1), r'dropout must be in \[0, 1\), but got 1'),
    (dict(classes='road'), "classes must be a list of names, but got 'road'"),
    (dict(classes=()), r'classes must be a list of names, but got \(\)'),
    (dict(max_classes=77), 'got max_classes=77, prompt_length=77'),
    (dict(max_classes=0), 'got max_classes=0, prompt_length=77'),
])
def test_wrong_arguments(kwargs, match):
    with pytest.raises(ValueError, match=match):
        TextPrompt(**dict(dict(classes=CLASSES), **kwargs))
