"""Training whose draws depend on the samples alone.

However the same samples are shared out among processes and batches, flips,
perturbations, times and noise are the same. Configs of the tests import it.
"""

import zlib

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, TRANSFORMS

from mmseg_semflow.flow import perturb
from mmseg_semflow.networks.autoencoder import LatentGaussian


@TRANSFORMS.register_module()
class SeedByFile:
    """The first transform: the others draw by the name of the file."""

    def __call__(self, results):
        seed = zlib.crc32(results['img_path'].rsplit('/', 1)[1].encode())
        torch.manual_seed(seed)
        np.random.seed(seed)
        return results


def generator_of(tensor):
    return torch.Generator().manual_seed(
        zlib.crc32(tensor.float().numpy().tobytes()))


@HOOKS.register_module()
class DrawByImage(Hook):
    """Draw the noise of both latents and t by the image and its labels."""

    def before_train(self, runner):
        semflow = getattr(runner.model, 'module', runner.model).semflow
        loss, codec, generators = semflow.loss, semflow.codec, []

        def loss_of_images(images, *rest):
            generators[:] = map(generator_of, images)
            return loss(images, *rest)

        def perturbed_masks(label_maps):
            levels = codec.encode(label_maps)
            return codec.normalize(torch.stack([
                perturb(level, codec.amplitude, generator_of(label_map))
                for level, label_map in zip(levels, label_maps, strict=True)
            ]))

        def sample_time(size, **kwargs):
            return torch.cat([torch.rand(1, generator=g) for g in generators])

        def sample(latents):
            noise = [
                torch.randn(mean.shape, generator=generator)
                for mean, generator in zip(
                    latents.mean, generators, strict=True)
            ]
            return latents.mean + latents.std * torch.stack(noise)

        semflow.loss = loss_of_images
        semflow.perturbed_masks = perturbed_masks
        semflow.process.path.sample_time = sample_time
        LatentGaussian.sample = sample
