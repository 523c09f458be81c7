"""The TAESD family, by files in the author's layout and in diffusers'."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from mmengine.registry import MODELS
from PIL import Image
from safetensors.torch import save_file

SHARED = Path(__file__).parents[3] / 'shared'  # beside a clone, if it is there
TAEF2 = Path(os.environ.get('TAEF2', SHARED / 'weights/taef2/taef2'))
CAMVID = Path(os.environ.get('CAMVID', SHARED / 'data/camvid'))
MEMBERS = [(4, False), (16, False), (32, True)]
members = pytest.mark.parametrize('channels, pooled', MEMBERS)


def build(channels=4, **kwargs):
    return MODELS.build(
        dict(type='TinyAutoencoder', latent_channels=channels, **kwargs))


def write(autoencoder, stem, suffix='.pth'):
    save = dict([('.pth', torch.save), ('.safetensors', save_file)])[suffix]
    for part in ('encoder', 'decoder'):
        save(getattr(autoencoder, part).state_dict(), f'{stem}_{part}{suffix}')


def pixels(count=2, size=(24, 32)):
    return torch.rand(count, 3, *size) * 2 - 1


@pytest.mark.parametrize('channels', [4, 16])
def test_as_diffusers_has_it(channels, tmp_path):
    """The same numbers, from a folder of its ``AutoencoderTiny``."""
    theirs = AutoencoderTiny(latent_channels=channels)
    theirs.save_pretrained(tmp_path)
    ours = build(channels, weights=str(tmp_path))
    ours.init_weights()
    x = pixels(1)
    with torch.no_grad():
        z = theirs.encode(x).latents
        assert torch.equal(ours.encode(x).mean, z)
        assert torch.equal(ours.decode(z), theirs.decode(z).sample)


@members
@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_the_authors_files(channels, pooled, suffix, tmp_path):
    source = build(channels, pooled=pooled)
    write(source, tmp_path / 'tae', suffix)
    read = build(channels, pooled=pooled, weights=str(tmp_path / 'tae'))
    read.init_weights()
    x = pixels()
    z, expected = read.encode(x), source.encode(x)
    assert z.mean.shape == (2, channels, 3, 4) and read.factor == 8
    assert torch.equal(z.mean, expected.mean) and not z.std.any()
    assert torch.equal(read.decode(z.mean), source.decode(z.mean))
    # What shares a batch changes nothing.
    assert torch.equal(read.encode(x[1:]).mean, z.mean[1:])


def test_statistics_are_taken_out_and_put_back():
    mean, std = [1., -2., 0.5, 3.], [0.5, 2., 1., 4.]
    plain, scaled = build(), build(mean=mean, std=std)
    scaled.load_state_dict(plain.state_dict())
    x = pixels()
    z, raw = scaled.encode(x).mean, plain.encode(x).mean
    for channel in range(4):
        torch.testing.assert_close(
            z[:, channel] * std[channel] + mean[channel], raw[:, channel])
    torch.testing.assert_close(scaled.decode(z), plain.decode(raw))
    assert plain.identity()['weights'] == scaled.identity()['weights']
    assert plain.identity() != scaled.identity()


def test_it_is_frozen_and_lets_gradients_through():
    autoencoder = build()
    assert not any(p.requires_grad for p in autoencoder.parameters())
    assert not autoencoder.train().training
    z = torch.randn(1, 4, 2, 2, requires_grad=True)
    autoencoder.decode(z).square().sum().backward()
    assert z.grad.abs().min() > 0
    # Latents far out are bounded, as the decoder was trained.
    torch.testing.assert_close(
        autoencoder.decode(torch.full((1, 4, 2, 2), 1e4)),
        autoencoder.decode(torch.full((1, 4, 2, 2), 1e6)))


@pytest.mark.parametrize('kwargs, match', [
    (dict(mean=[0., 1.]), 'mean must be one number or one for each of the 4 .* got 2'),
    (dict(std=0.), 'std must be positive, but got 0.0'),
    (dict(std=[1., 1., -1., 1.]), 'std must be positive')])
def test_wrong_statistics(kwargs, match):
    with pytest.raises(ValueError, match=match):
        build(**kwargs)


@members
@pytest.mark.parametrize('part', ['encoder', 'decoder'])
def test_another_member_is_named(channels, pooled, part, tmp_path):
    """In a file of a pair whose other one fits."""
    names = {4: 'TAESD or TAESDXL', 16: 'TAESD3 or TAEF1', 32: 'TAEF2'}
    for other, pools in MEMBERS:
        if other == channels:
            continue
        own = build(other, pooled=pools, weights=str(tmp_path / 'tae'))
        write(own, tmp_path / 'tae')
        wrong = getattr(build(channels, pooled=pooled), part)
        torch.save(wrong.state_dict(), tmp_path / f'tae_{part}.pth')
        with pytest.raises(ValueError, match=(
                rf'tae_{part}.pth is the {part} of {names[channels]}, but .* '
                rf'latent_channels={other} and pooled={pools}, those of '
                f'{names[other]}')):
            own.init_weights()


def test_a_part_of_another_width(tmp_path):
    write(build(), tmp_path / 'tae')
    narrow = {
        key: value[:32]
        for key, value in build().encoder.state_dict().items() if value.ndim < 2}
    torch.save({**build().encoder.state_dict(), **narrow}, tmp_path / 'tae_encoder.pth')
    with pytest.raises(ValueError, match='tae_encoder.pth does not fit'):
        build(weights=str(tmp_path / 'tae')).init_weights()


def test_a_file_of_something_else(tmp_path):
    write(build(), tmp_path / 'tae')
    torch.save({'1.weight': torch.zeros(3)}, tmp_path / 'tae_decoder.pth')
    with pytest.raises(ValueError, match=(
            'tae_decoder.pth is the decoder of no known member of the family, but')):
        build(weights=str(tmp_path / 'tae')).init_weights()


def test_half_a_pair(tmp_path):
    write(build(), tmp_path / 'tae')
    (tmp_path / 'tae_decoder.pth').unlink()
    with pytest.raises(FileNotFoundError, match=(
            'no .*tae_decoder.safetensors and no .*tae_decoder.pth: get both')):
        build(weights=str(tmp_path / 'tae')).init_weights()


def test_a_folder_of_the_authors_files(tmp_path):
    write(build(), tmp_path / 'tae')
    with pytest.raises(FileNotFoundError, match='name the beginning, such as'):
        build(weights=str(tmp_path)).init_weights()


def test_files_that_are_none_of_it(tmp_path):
    write(build(), tmp_path / 'tae')
    torch.save(dict(code=print), tmp_path / 'tae_encoder.pth')
    with pytest.raises(ValueError, match='tae_encoder.pth cannot be read'):
        build(weights=str(tmp_path / 'tae')).init_weights()
    save_file(dict(a=torch.zeros(1)),
              tmp_path / 'diffusion_pytorch_model.safetensors')
    with pytest.raises(ValueError, match="no AutoencoderTiny: it has the key 'a'"):
        build(weights=str(tmp_path)).init_weights()


@pytest.mark.skipif(
    not Path(f'{TAEF2}_encoder.pth').is_file() or not CAMVID.is_dir(),
    reason='wants the files of TAEF2 ($TAEF2) and CamVid ($CAMVID)')
def test_real_weights_give_the_picture_back():
    autoencoder = build(32, pooled=True, weights=str(TAEF2))
    autoencoder.init_weights()
    path = sorted((CAMVID / 'img_dir/val').iterdir())[0]
    picture = Image.open(path).convert('RGB').resize((320, 256), Image.BICUBIC)
    x = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1
    found = autoencoder.decode(autoencoder.encode(x).mean).clamp(-1, 1)
    error = (127.5 * (found - x)).square().mean()
    assert 20 * np.log10(255) - 10 * error.log10() > 27  # decibels
