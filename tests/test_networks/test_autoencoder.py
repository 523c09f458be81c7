import pytest
import torch
from mmengine.registry import MODELS

from tiny import VAE


def build_kl(**kwargs):
    return MODELS.build(dict(type='KLAutoencoder', vae={**VAE, **kwargs}))


@pytest.mark.parametrize('factor', [1, 2, 4, 8])
def test_patches_are_lossless(factor):
    autoencoder = MODELS.build(dict(type='PatchAutoencoder', factor=factor))
    pixels = torch.randn(2, 3, 16, 24)
    latent = autoencoder.encode(pixels)
    assert latent.mean.shape == (2, 3 * factor**2, 16 // factor, 24 // factor)
    assert latent.mean.shape[1] == autoencoder.latent_channels
    assert torch.equal(autoencoder.decode(latent.mean), pixels)
    assert torch.equal(latent.sample(), latent.mean)


def test_kl_latents_are_scaled_as_the_vae_says():
    autoencoder = build_kl(scaling_factor=0.25)
    pixels = torch.rand(2, 3, 16, 24) * 2 - 1
    posterior = autoencoder.vae.encode(pixels).latent_dist
    latent = autoencoder.encode(pixels)
    assert latent.mean.shape == (2, 4, 8, 12)
    torch.testing.assert_close(latent.mean, posterior.mode() * 0.25)
    torch.testing.assert_close(latent.std, posterior.std * 0.25)
    torch.testing.assert_close(
        autoencoder.decode(latent.mean),
        autoencoder.vae.decode(posterior.mode()).sample)


def test_kl_samples_have_the_posterior_moments():
    autoencoder = build_kl()
    latent = autoencoder.encode(torch.rand(1, 3, 8, 8))
    draws = torch.stack([latent.sample() for _ in range(4000)])
    torch.testing.assert_close(draws.mean(0), latent.mean, atol=0.02, rtol=0.1)
    torch.testing.assert_close(draws.std(0), latent.std, atol=0.02, rtol=0.1)


@pytest.mark.parametrize('latent_channels, blocks, factor', [(4, 2, 2),
                                                             (16, 3, 4)])
def test_any_latent_channels_and_factor(latent_channels, blocks, factor):
    autoencoder = build_kl(
        latent_channels=latent_channels,
        down_block_types=('DownEncoderBlock2D', ) * blocks,
        up_block_types=('UpDecoderBlock2D', ) * blocks,
        block_out_channels=(8, 16, 16)[:blocks])
    assert autoencoder.factor == factor
    latent = autoencoder.encode(torch.zeros(1, 3, 16, 16))
    assert latent.mean.shape == (1, latent_channels, 16 // factor, 16 // factor)
    assert autoencoder.decode(latent.mean).shape == (1, 3, 16, 16)


def test_it_stays_frozen_and_in_eval_mode():
    autoencoder = build_kl().train()
    assert not any(m.training for m in autoencoder.modules())
    assert not any(p.requires_grad for p in autoencoder.parameters())


BOTH = pytest.mark.parametrize('cfg', [
    dict(type='PatchAutoencoder', factor=2),
    dict(type='KLAutoencoder', vae=VAE),
], ids=['patches', 'kl'])


@BOTH
@pytest.mark.parametrize('method', ['encode', 'decode', 'both'])
def test_gradients_equal_finite_differences(cfg, method):
    """Frozen is what it learnt; what passes through it is differentiated."""
    autoencoder = MODELS.build(cfg)
    x = torch.rand(2, 3, 8, 12) * 2 - 1
    if method == 'decode':
        x = autoencoder.encode(x).mean
    line = torch.randn_like(x)

    def total(x):
        if method != 'decode':
            x = autoencoder.encode(x).mean
        if method != 'encode':
            x = autoencoder.decode(x)
        # Any smooth function whose derivative is not constant.
        return x.double().sin().sum()

    leaf = x.clone().requires_grad_()
    slope = (torch.autograd.grad(total(leaf), leaf)[0] * line).sum().item()
    with torch.no_grad():
        difference = (total(x + 1e-3 * line) - total(x - 1e-3 * line)).item()
    assert slope == pytest.approx(difference / 2e-3, rel=5e-3, abs=1e-2)
    assert all(p.grad is None for p in autoencoder.parameters())


@BOTH
def test_sizes_that_do_not_fit(cfg):
    with pytest.raises(ValueError, match='15x24 .* multiples of 2'):
        MODELS.build(cfg).encode(torch.zeros(1, 3, 15, 24))


def test_bad_factor():
    with pytest.raises(ValueError, match='factor must be >= 1, but got 0'):
        MODELS.build(dict(type='PatchAutoencoder', factor=0))


def test_the_sign_of_zero_is_no_other_autoencoder():
    """An average of equal weights has it the other way."""
    autoencoder = build_kl()
    weight = next(autoencoder.parameters())
    weight.data.flatten()[0] = -0.
    before = autoencoder.identity()
    weight.data.lerp_(weight.data.clone(), 0.002)
    assert str(weight.data.flatten()[0].item()) == '0.0'
    assert autoencoder.identity() == before
    weight.data.flatten()[0] = 1e-3
    assert autoencoder.identity() != before
