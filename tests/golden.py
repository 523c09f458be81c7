"""Outputs of tiny models, stored once and compared ever after.

``python tests/golden.py`` writes the files that are missing.
"""

import json
from pathlib import Path

import torch
from mmengine.registry import MODELS
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import mmseg_semflow  # noqa: F401
from mmseg_semflow.flow import seeded_generator, uniform_times

FOLDER = Path(__file__).parent / 'golden'
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


def config(model, end_std=None, latents=(1, 1), **kwargs):
    """Config of a model whose network takes and returns some latents."""
    unet = dict(
        UNET, in_channels=12 * latents[0], out_channels=12 * latents[1])
    return dict(
        type=model,
        velocity_net=dict(
            type='VelocityUNet', prompt_length=2, unet=unet, end_std=end_std),
        autoencoder=dict(type='PatchAutoencoder', factor=2),
        codec=CODEC,
        **kwargs)


# The config and the solvers of each direction.
CASES = dict(
    semflow=(config('SemFlowModel'), dict(
        image_to_mask=('euler', 'heun', 'rk4', 'dopri5'),
        mask_to_image=('euler', 'heun', 'rk4', 'dopri5'))),
    semflow_options=(config(
        'SemFlowModel',
        end_std=(0.5, 1.),
        ignore_void=True,
        time_sampling='logit_normal',
        start_fraction=0.5,
        one_step_loss=dict(
            weight=0.5, scale=1.5, class_weight=(1., 2., 0.5, 1., 3.))), dict(
                image_to_mask=('euler', ), mask_to_image=('euler', ))),
    symmflow=(config('SymmFlowModel', latents=(2, 2)), dict(
        image_to_mask=('euler', 'heun'), mask_to_image=('euler', 'heun'))),
    bbdm=(config('BBDMModel', ignore_void=True),
          dict(mask_to_image=('bridge', ))),
    bbdm_segmentor=(config(
        'BBDMModel', direction='image_to_mask', max_variance=0.3, eta=0.5),
                    dict(image_to_mask=('bridge', ))),
    dsm=(config('DSMModel', latents=(2, 1), ignore_void=True),
         dict(image_to_mask=('DDIMScheduler', 'DDPMScheduler'))),
    dsm_v=(config(
        'DSMModel', latents=(2, 1), prediction_type='v_prediction'),
           dict(image_to_mask=('DDIMScheduler', 'DDPMScheduler'))))


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
            torch.manual_seed(1)
            found[f'{direction}.{solver}'] = model.transport(
                pixels, uniform_times(3, *times), solver,
                return_trajectory=True, generators=generators)
            torch.manual_seed(1)
            found[f'{direction}.{solver}.tiles'] = model.transport(
                pixels, uniform_times(2, *times), solver, tile_size=(8, 16),
                tile_stride=(4, 8))
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


def write(name):
    """Write what the code at hand computes."""
    cfg, solvers = CASES[name]
    torch.manual_seed(0)
    model = MODELS.build(cfg)
    nn.init.normal_(model.velocity_net.unet.conv_out.weight, std=0.3)
    tensors = {f'weights/{k}': v.clone() for k, v in model.state_dict().items()}
    tensors.update(
        {f'outputs/{k}': v for k, v in outputs(model, solvers).items()})
    FOLDER.mkdir(exist_ok=True)
    save_file(tensors, FOLDER / f'{name}.safetensors',
              dict(keys=json.dumps(list(model.state_dict()))))


if __name__ == '__main__':
    for case in CASES:
        if not (FOLDER / f'{case}.safetensors').exists():
            write(case)
