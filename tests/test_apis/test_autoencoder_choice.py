"""What an autoencoder makes of a dataset: statistics and round trips."""

from pathlib import Path

import cv2
import pytest
import torch

from mmseg_semflow.apis.autoencoder_choice import AutoencoderTrial, codec_for_trial
from mmseg_semflow.flow import PseudoMaskCodec
from tiny import CODEC, META, runner_cfg


@pytest.fixture
def cfg(shared_street, tmp_path):
    cfg = runner_cfg(shared_street, tmp_path / 'work')
    cfg.test_dataloader = cfg.val_dataloader
    return cfg


def test_statistics_of_a_lossless_autoencoder(cfg, shared_street):
    """Its channels are the pixels: closed form, from the files."""
    cfg.model.semflow.codec = dict(CODEC, amplitude=0)
    found = AutoencoderTrial(cfg, device='cpu').statistics()
    pictures = torch.stack([
        torch.from_numpy(cv2.imread(str(path))).flip(-1).permute(2, 0, 1)
        for path in sorted((shared_street / 'img_dir/val').glob('*.jpg'))
    ]).double() / 127.5 - 1
    codec = PseudoMaskCodec(**CODEC)
    masks = codec.normalize(codec.encode(torch.stack([
        torch.from_numpy(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)).long()
        for path in sorted((shared_street / 'ann_dir/val').glob('*.png'))
    ]))).double()
    for name, pixels in dict(
            pictures=pictures, masks=masks, both=torch.cat([pictures, masks])).items():
        row = found[name]
        assert row['mean'] == pytest.approx(pixels.mean().item(), abs=1e-6)
        assert row['std'] == pytest.approx(
            pixels.std(correction=0).item(), abs=1e-6)
        cells = torch.nn.functional.pixel_unshuffle(pixels, 2).movedim(1, 0).flatten(1)
        torch.testing.assert_close(
            torch.tensor(row['channel_means']).double(), cells.mean(1),
            atol=1e-6, rtol=0)
        torch.testing.assert_close(
            torch.tensor(row['channel_stds']).double(),
            cells.std(1, correction=0), atol=1e-6, rtol=0)


def test_crops_of_patches_are_exact(cfg):
    found = AutoencoderTrial(cfg, device='cpu').crop_errors((8, 12))
    assert found == {
        name: dict(border=0., inside=0.) for name in ('pictures', 'masks')}


def test_crops_of_a_convolution_differ_at_the_border_alone(cfg):
    """An encoder that adds the cell to the left: closed form."""
    trial = AutoencoderTrial(cfg, device='cpu')
    encode = trial.autoencoder.encode

    def shifted(pixels):
        found = encode(pixels)
        z = found.mean
        left = torch.nn.functional.pad(z, (1, 0))[..., :-1]
        found.mean = z + left
        return found

    trial.autoencoder.encode = shifted
    found = trial.crop_errors((8, 12))
    assert found['pictures']['inside'] == found['masks']['inside'] == 0
    # The left column of the ring lacks its neighbour, unless it is the first.
    assert 0 < found['pictures']['border'] < 1


@pytest.mark.parametrize('size, match', [
    ((7, 12), 'multiples of 2, at least 6, but got'), ((4, 12), 'at least 6'),
    ((8, 1000), 'exceeds an image of')])
def test_crops_that_do_not_fit(cfg, size, match):
    with pytest.raises(ValueError, match=match):
        AutoencoderTrial(cfg, device='cpu').crop_errors(size)


def test_round_trips(cfg):
    """Lossless without noise; with more noise and less spacing less survives."""
    codecs = {
        'wide': PseudoMaskCodec(5, 2, 254, 0.),
        'narrow': PseudoMaskCodec(5, 6, 10, 0.)
    }
    rows = list(AutoencoderTrial(cfg, device='cpu').round_trips(
        codecs, [(0., ), (0.5, ), (2., 0.25)]))
    assert [(row['codec'], row['latent_noise']) for row in rows] == [
        (name, noise) for name in codecs for noise in ('0', '0.5', '2 0.25')]
    pixels = [row['aAcc'] for row in rows]
    assert pixels[0] == pixels[3] == 100
    assert 100 > pixels[1] > pixels[2] and 100 > pixels[4] > pixels[5]
    assert pixels[1] > pixels[4] and pixels[2] > pixels[5]
    assert set(META['classes']) <= rows[0].keys()
    assert rows[1]['mIoU'] == pytest.approx(
        sum(rows[1][name] for name in META['classes']) / 5)


def test_gaussian_noise_in_closed_form(cfg):
    """Two anchors 2 apart in one channel: a label survives with Phi(1 / std)."""
    codec = PseudoMaskCodec(5, 2, 254, 0.)
    std = 0.7
    row, wide = AutoencoderTrial(cfg, device='cpu').round_trips(
        dict(codec=codec), [(std, ), (0.6 * std, 0., 0.8 * std)])
    # All eight corners of the cube but three: each channel has to survive that
    # leads to a used corner, so that the rate lies between one and three channels.
    one = 100 * torch.distributions.Normal(0., 1.).cdf(
        torch.tensor(254 / 255 / std)).item()
    assert (one / 100)**3 * 100 - 2 < row['aAcc'] < one + 2
    # Noise of several sizes is as strong at every pixel.
    assert wide['aAcc'] == pytest.approx(row['aAcc'], abs=2)


@pytest.mark.parametrize('divisions, spacing', [(2, 254), (3, 127), (6, 50)])
def test_codes_that_lie_far_apart(divisions, spacing):
    def nearest(spread):
        codec = codec_for_trial(8, divisions, spacing, spread)
        distances = torch.cdist(codec.levels, codec.levels)
        return distances[distances > 0].min().item()

    first = codec_for_trial(2, divisions, spacing, True).levels
    assert (first[0] - first[1]).norm() == pytest.approx(
        spacing * (divisions - 1) * 3**0.5)
    assert nearest(False) == spacing
    assert nearest(True) > spacing or divisions == 2


def test_a_codec_with_too_few_colours():
    with pytest.raises(ValueError, match='divisions=2 gives .*=8 anchors, fewer'):
        codec_for_trial(9, 2, 254)


def test_the_tools(cfg, tmp_path, call_tool, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg.custom_imports = dict(imports=['mmseg_semflow'])
    cfg.dump('config.py')
    said = call_tool(
        'compare_codecs.py', 'config.py', '--codecs', '2,254', '6,10', '--codes',
        'eq7', 'spread', '--latent-noise', 0, '1,0.5', '--num-images', 2, '--device',
        'cpu')
    table = Path('work_dirs/codecs/codecs.md').read_text()
    assert table in said and len(table.splitlines()) == 2 + 5 * 2
    assert '| 6,10 spread | 1 0.5 |' in table
    for wrong in ('-1', 'nan', '0.5,', 'a'):
        said = call_tool(
            'compare_codecs.py', 'config.py', f'--latent-noise={wrong}', fails=True)
        assert f"'{wrong}' must be deviations >= 0" in said
    said = call_tool('latent_statistics.py', 'config.py', '--device', 'cpu')
    assert 'pictures  mean' in said and 'std=[' in said
    said = call_tool('latent_statistics.py', 'config.py', '--num-images', 0, fails=True)
    assert 'error: num_images must be >= 1, but got 0' in said
