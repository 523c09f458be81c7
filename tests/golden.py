"""Outputs of tiny models of the first version, with their checkpoints.

The files in ``golden`` were written by that version's code, at commit
"Golden files: what every process computes, before the house is rebuilt".
"""

from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open

from mmseg_semflow.flow import seeded_generator, tile_network, uniform_times

FOLDER = Path(__file__).parent / 'golden'
# 8 x 16 pixels, 4 x 8 apart, on patches of 2 x 2.
TILES = partial(tile_network, window=(4, 8), stride=(2, 4))
UNET = dict(
    in_channels=12,
    out_channels=12,
    down_block_types=('CrossAttnDownBlock2D', 'DownBlock2D'),
    up_block_types=('UpBlock2D', 'CrossAttnUpBlock2D'),
    block_out_channels=(4, 8),
    layers_per_block=1,
    norm_num_groups=2,
    attention_head_dim=2,
    cross_attention_dim=4)
CODEC = dict(
    num_classes=5,
    divisions=2,
    spacing=200,
    amplitude=10,
    void_color=(100, 100, 100))


def config(process, latents=(1, 1), losses=None, wrappers=()):
    """Config of a model whose network takes and returns some latents."""
    unet = dict(
        UNET, in_channels=12 * latents[0], out_channels=12 * latents[1])
    return dict(
        type='SemFlowModel',
        network=dict(type='VelocityUNet', prompt_length=2, unet=unet),
        autoencoder=dict(type='PatchAutoencoder', factor=2),
        codec=CODEC,
        process=process,
        losses=losses,
        wrappers=wrappers)


NO_VOID = dict(type='MatchingLoss', ignore_void=True)
# The config and the solvers of each direction.
CASES = dict(
    semflow=(config(dict(type='RectifiedFlow')),
             dict(
                 image_to_mask=('euler', 'heun', 'rk4', 'dopri5'),
                 mask_to_image=('euler', 'heun', 'rk4', 'dopri5'))),
    semflow_options=(config(
        dict(
            type='RectifiedFlow',
            time_sampling='logit_normal',
            start_fraction=0.5),
        losses=[
            NO_VOID,
            dict(
                type='OneStepMapLoss',
                weight=0.5,
                scale=1.5,
                class_weight=(1., 2., 0.5, 1., 3.))
        ],
        wrappers=[dict(type='EndStdPreconditioning', end_std=(0.5, 1.))]),
                     dict(
                         image_to_mask=('euler', ),
                         mask_to_image=('euler', ))),
    symmflow=(config(dict(type='SymmetricFlow'), latents=(2, 2)),
              dict(
                  image_to_mask=('euler', 'heun'),
                  mask_to_image=('euler', 'heun'))),
    bbdm=(config(dict(type='BrownianBridge'), losses=[NO_VOID]),
          dict(mask_to_image=('bridge', ))),
    bbdm_segmentor=(config(
        dict(
            type='BrownianBridge',
            direction='image_to_mask',
            max_variance=0.3,
            eta=0.5)), dict(image_to_mask=('bridge', ))),
    dsm=(config(dict(type='Diffusion'), latents=(2, 1), losses=[NO_VOID]),
         dict(image_to_mask=('DDIMScheduler', 'DDPMScheduler'))),
    dsm_v=(config(
        dict(type='Diffusion', prediction_type='v_prediction'),
        latents=(2, 1)), dict(image_to_mask=('DDIMScheduler',
                                             'DDPMScheduler'))))


def inputs():
    """Make images, labels with void and pseudo masks, without randomness."""
    index = torch.arange(2 * 3 * 16 * 24).float()
    images = (index * 0.37).sin().view(2, 3, 16, 24) * 0.9
    labels = torch.arange(2 * 16 * 24).view(2, 16, 24) // 5 % 5
    labels[:, :3, :4] = 255
    return images, labels


def outputs(model, solvers):
    """Compute losses, gradients and both directions."""
    images, labels = inputs()
    pseudo_masks = model.codec.normalize(model.codec.encode(labels))
    found = {}
    torch.manual_seed(0)
    losses = model.loss(images, pseudo_masks, labels)
    found.update(losses)
    sum(losses.values()).backward()
    found['gradient_norm'] = torch.stack([
        p.grad.norm() for p in model.parameters() if p.grad is not None
    ]).norm()
    for direction, names in solvers.items():
        pixels, times = (images, (0., 1.)) if direction == 'image_to_mask' \
            else (pseudo_masks, (1., 0.))
        for solver in names:
            generators = [
                seeded_generator(0, number, labels[number].to(torch.uint8))
                for number in range(2)
            ] if solver not in ('heun', 'rk4', 'dopri5') else None
            for name, steps, options in (
                ('', 3, dict(return_trajectory=True, generators=generators)),
                ('.tiles', 2, dict(wrap=TILES))):
                torch.manual_seed(1)
                with torch.no_grad():
                    found[f'{direction}.{solver}{name}'] = model.transport(
                        pixels, uniform_times(steps, *times), solver, **options)
    return {key: value.detach().contiguous() for key, value in found.items()}


def read(name):
    """Read a file: the state dict as it was written, and the outputs."""
    state_dict, found = {}, {}
    with safe_open(FOLDER / f'{name}.safetensors', 'pt') as file:
        for key in file.keys():
            part, rest = key.split('/')
            (state_dict if part == 'weights' else found)[rest] = \
                file.get_tensor(key)
    return state_dict, found
