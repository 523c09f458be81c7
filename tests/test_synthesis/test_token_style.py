"""Style tokens of reference pictures, in turn."""

import json

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from mmseg_semflow.apis import SemFlowInferencer
from mmseg_semflow.synthesis import (
    LatentStatistics,
    MultiResolutionFusion,
    Styles,
    Synthesizer,
    TokenStyle,
)
from mmseg_semflow.synthesis import style as style_module
from mmseg_semflow.synthesis.pictures import read_note
from tiny import semflow_cfg

WRAPPERS = [dict(type='StyleToken', latent_channels=12, token_channels=16)]
STATISTICS = dict(type='LatentStatistics', mean=[0.] * 12, std=[0.5] * 12)


def with_styles(semflow):
    """Let pictures depend on the token, and let there be one to draw else."""
    nn.init.normal_(semflow.network.unet.conv_out.weight, std=0.3)
    token = semflow.wrappers[0]
    nn.init.normal_(token.project[-1].weight, std=0.5)
    z0 = torch.randn(1, 12, 4, 4)
    token.training_condition(z0, z0, torch.ones(1))
    return semflow.eval()


@pytest.fixture(scope='module')
def semflow():
    torch.manual_seed(1)
    return with_styles(MODELS.build(semflow_cfg(wrappers=WRAPPERS)))


@pytest.fixture
def pictures(tmp_path):
    """A folder of three pictures of two sizes."""
    rng = np.random.default_rng(0)
    (tmp_path / 'pictures').mkdir()
    for name, size in dict(a=(8, 12), b=(8, 12), c=(6, 4)).items():
        cv2.imwrite(str(tmp_path / f'pictures/{name}.png'),
                    rng.integers(0, 256, (*size, 3), np.uint8))
    return tmp_path / 'pictures'


def pixels_of(semflow, path):
    pixels = torch.from_numpy(cv2.imread(str(path))[..., ::-1].copy())
    return semflow.codec.normalize(pixels.permute(2, 0, 1)[None].float())


def checked(semflow, *args):
    style = TokenStyle(*args)
    style.check_model(semflow)
    return style


def test_the_token_is_mean_and_deviation_of_the_latents(semflow, pictures):
    z0 = semflow.encode(pixels_of(semflow, pictures / 'b.png'))[0]
    expected = torch.cat([z0.mean((-2, -1)), z0.std((-2, -1), unbiased=False)])
    style = checked(semflow, pictures)
    torch.testing.assert_close(style.condition([1])['style'][0], expected)
    assert style.record(1) == dict(style_token='b.png')
    # In another size it is that of the resized picture.
    resized = checked(semflow, pictures, (4, 6)).condition([1])['style'][0]
    assert not torch.allclose(resized, expected)


def test_references_take_turns(semflow, pictures):
    style = checked(semflow, pictures)
    found = style.condition(range(7))['style']
    assert len(found.unique(dim=0)) == 3
    assert torch.equal(found, found[[0, 1, 2, 0, 1, 2, 0]])
    names = [style.record(number)['style_token'] for number in range(4)]
    assert names == ['a.png', 'b.png', 'c.png', 'a.png']
    alone = checked(semflow, pictures / 'c.png')
    assert torch.equal(alone.condition([0])['style'], found[2:3])


@pytest.mark.parametrize('batch_size', [1, 4])
def test_pictures_are_drawn_with_the_tokens(semflow, pictures, batch_size):
    labels = torch.randint(0, 5, (12, 16))
    style = TokenStyle(pictures)
    styled = Synthesizer(
        semflow, 2, num_samples=4, batch_size=batch_size, style=style)
    plain = Synthesizer(semflow, 2)
    found = styled(labels)
    for number in range(4):
        mask = plain.perturbed(labels, number)
        expected = semflow.mask_to_image(mask, 2, condition=style.condition([number]))
        torch.testing.assert_close(
            semflow.codec.normalize(found[number].float()), expected[0].clamp(-1, 1),
            rtol=0, atol=0.01)
    assert not torch.equal(found[0], plain(labels)[0])
    # Segmentation knows no style.
    image = found[0]
    assert torch.equal(styled.segment(image, 2), plain.segment(image, 2))


def test_both_passes_of_a_fusion_have_the_token(semflow, pictures):
    style, seen = TokenStyle(pictures), []
    fusion = MultiResolutionFusion(semflow, (12, 16), num_steps=1, style=style)
    hook = semflow.wrappers[0].project.register_forward_pre_hook(
        lambda module, args: seen.append(args[0]))
    try:
        fusion.synthesize([(torch.randint(0, 5, (24, 32)), 2)])
    finally:
        hook.remove()
    expected = style.condition([2])['style']
    assert len(seen) > 2
    assert all(torch.equal(one, expected.expand_as(one)) for one in seen)


def test_unreadable_references_are_named_and_the_others_used(semflow, pictures):
    (pictures / 'b.png').write_bytes(b'broken')
    style = checked(semflow, pictures)
    assert 'b.png cannot be read' in style.failed[str(pictures / 'b.png')]
    assert [style.record(n)['style_token'] for n in (0, 1, 2)] == [
        'a.png', 'c.png', 'a.png'
    ]
    (pictures / 'b.png').unlink()
    assert style.settings == checked(semflow, pictures).settings


def test_settings_tell_references_apart(semflow, pictures):
    found = [
        checked(semflow, *args).settings['source']
        for args in ((pictures, ), (pictures, (4, 6)), (pictures / 'a.png', ))
    ]
    assert len(set(found)) == 3
    synthesizer = Synthesizer(semflow, 2, style=TokenStyle(pictures))
    assert synthesizer.settings['style'] == dict(type='TokenStyle', source=found[0])


def test_they_are_encoded_once_for_a_model(semflow, pictures, monkeypatch):
    """And not before they are needed: a model may get its weights later."""
    encode, calls = style_module.encoded_pictures, []
    monkeypatch.setattr(
        style_module, 'encoded_pictures',
        lambda *args: calls.append(1) or encode(*args))
    cfg = dict(type='TokenStyle', pictures=str(pictures))
    synthesizers = [
        Synthesizer(semflow, 1, style=style) for style in (cfg, Styles(
            [TokenStyle(pictures)]), cfg)]
    assert not calls
    for synthesizer in synthesizers:
        synthesizer(torch.zeros(8, 8, dtype=torch.long))
    assert len(calls) == 1


@pytest.mark.parametrize('wrappers', [
    [], [dict(type='EndStdPreconditioning', end_std=(0.5, 1.))]])
def test_a_model_without_tokens_is_refused(pictures, wrappers):
    model = MODELS.build(semflow_cfg(wrappers=wrappers))
    with pytest.raises(ValueError, match=f'the style token of {pictures} is for a '
                       'model that was trained with tokens, .* have no StyleToken'):
        Synthesizer(model, style=dict(type='TokenStyle', pictures=str(pictures)))


def test_wrong_references(semflow, pictures, tmp_path):
    with pytest.raises(FileNotFoundError, match='missing: there is no such file'):
        checked(semflow, tmp_path / 'missing').record(0)
    (tmp_path / 'a.jpg').write_bytes(b'broken')
    with pytest.raises(ValueError, match='holds no picture that can be read: .*a.jpg'):
        checked(semflow, tmp_path / 'a.jpg').record(0)
    for size in ((4, ), 4):
        with pytest.raises(ValueError, match=r'size .*4'):
            TokenStyle(pictures, size)


@pytest.fixture
def token_files(files):
    """Config and checkpoint of a model with a StyleToken; gives the config a style."""

    def write(style=None):
        cfg = Config.fromfile(files[0])
        cfg.model.semflow.wrappers = WRAPPERS
        cfg.synthesis = dict(style=style)
        cfg.dump(files[0])

    write()
    torch.manual_seed(1)
    semflow = with_styles(MODELS.build(semflow_cfg(wrappers=WRAPPERS)))
    checkpoint = torch.load(files[1], weights_only=False)
    checkpoint['state_dict'] = {
        f'semflow.{key}': value for key, value in semflow.state_dict().items()
    }
    torch.save(checkpoint, files[1])
    return write


def test_the_tools_draw_with_tokens(token_files, run_tool, street, pictures, tmp_path):
    mask = street / 'ann_dir/train/0.png'

    def call(out, *args, **kwargs):
        return run_tool('synthesize.py', '--masks', mask, '--num-steps', 1, '--size',
                        12, 16, '--num-samples', 2, '--out', tmp_path / out, *args,
                        **kwargs)

    call('plain')
    call('token', '--style-token', pictures)
    plain, token = (cv2.imread(str(tmp_path / out / '0_1.png'))
                    for out in ('plain', 'token'))
    assert (plain != token).any()
    note = json.loads(read_note(tmp_path / 'token/0_1.png'))
    assert note['style']['type'] == 'TokenStyle'
    out = tmp_path / 'set'
    (pictures / 'a.png').write_bytes(b'broken')
    told = call('others', '--style-token', pictures, fails=True)
    assert f'left out of the style: {pictures}/a.png cannot be read' in told
    told = run_tool(
        'generate_dataset.py', '--out', out, '--num-images', 3, '--size', 12, 16,
        '--num-steps', 1, '--min-agreement', 0, '--style-token', pictures)
    assert told.count(f'left out of the style: {pictures}/a.png cannot be read') == 2
    records = list(map(json.loads, (out / 'manifest.jsonl').read_text().splitlines()))
    assert [record['style_token'] for record in records] == ['b.png', 'c.png', 'b.png']
    assert all(record['style']['type'] == 'TokenStyle' for record in records)


def test_a_model_of_a_tool_without_tokens(run_tool, street, pictures, tmp_path):
    for name, args in {
        'synthesize.py': ('--masks', street / 'ann_dir/train/0.png'),
        'generate_dataset.py': ('--num-images', 1, '--size', 12, 16),
    }.items():
        told = run_tool(name, '--out', tmp_path / 'out', *args, '--style-token',
                        pictures, fails=True)
        assert 'the wrappers of this config have no StyleToken' in told
    assert not (tmp_path / 'out').exists()


def test_a_config_has_references_which_the_option_replaces(
        token_files, files, pictures):
    token_files(dict(type='TokenStyle', pictures=str(pictures / 'a.png')))
    inferencer = SemFlowInferencer(*files, device='cpu')
    own, other = (
        inferencer.styled_synthesizer(token=token, num_steps=1)[0].style
        for token in (None, pictures / 'b.png'))
    assert [type(style) for style in (own, other)] == [TokenStyle] * 2
    assert [style.record(0)['style_token'] for style in (own, other)] == [
        'a.png', 'b.png'
    ]
    labels = np.zeros((12, 16), int)
    assert np.array_equal(
        inferencer.synthesize(labels, num_steps=1),
        inferencer.synthesize(labels, num_steps=1, style=own))
    # Unreadable ones of a config are named too.
    (pictures / 'c.png').write_bytes(b'broken')
    token_files(dict(type='TokenStyle', pictures=str(pictures)))
    _, unread = SemFlowInferencer(*files, device='cpu').styled_synthesizer()
    assert list(unread) == [str(pictures / 'c.png')]


def test_the_style_of_a_config_stays_beside_pictures(token_files, files, pictures):
    token_files(dict(type='TokenStyle', pictures=str(pictures / 'a.png')))
    inferencer = SemFlowInferencer(*files, device='cpu')
    style = inferencer.styled_synthesizer(pictures / 'b.png')[0].style
    assert [type(part) for part in style.styles] == [TokenStyle, LatentStatistics]
    assert style.record(0) == dict(style_token='a.png')
    # What an option replaces need not be there.
    token_files(dict(type='TokenStyle', pictures=str(pictures / 'missing')))
    inferencer = SemFlowInferencer(*files, device='cpu')
    style = inferencer.styled_synthesizer(token=pictures / 'b.png')[0].style
    assert style.record(0) == dict(style_token='b.png')


def test_names_in_subfolders_are_told_apart(semflow, pictures):
    (pictures / 'deep').mkdir()
    (pictures / 'c.png').rename(pictures / 'deep/a.png')
    style = checked(semflow, pictures)
    names = {style.record(number)['style_token'] for number in range(3)}
    assert names == {'a.png', 'b.png', 'deep/a.png'}


def test_tokens_beside_other_styles(token_files, files, pictures):
    token_files(STATISTICS)
    inferencer = SemFlowInferencer(*files, device='cpu')
    for given in (None, pictures / 'b.png'):
        style = inferencer.styled_synthesizer(given, token=pictures / 'a.png')[0].style
        assert [type(part) for part in style.styles] == [TokenStyle, LatentStatistics]
        assert style.record(0) == dict(style_token='a.png')
        assert list(style.condition([0])) == ['style']
