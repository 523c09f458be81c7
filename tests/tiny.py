"""Tiny networks, pipelines and configs that the tests share."""

import copy
import json
from collections import OrderedDict

import cv2
import mmengine.registry
import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from mmengine import Config
from mmengine.registry import MODELS
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

import golden
from mmseg_semflow.flow import PseudoMaskCodec

UNET = dict(
    in_channels=4,
    out_channels=4,
    down_block_types=('CrossAttnDownBlock2D', 'DownBlock2D'),
    up_block_types=('UpBlock2D', 'CrossAttnUpBlock2D'),
    block_out_channels=(8, 16),
    layers_per_block=1,
    norm_num_groups=4,
    attention_head_dim=4,
    cross_attention_dim=16)
VAE = dict(
    in_channels=3,
    out_channels=3,
    down_block_types=('DownEncoderBlock2D', ) * 2,
    up_block_types=('UpDecoderBlock2D', ) * 2,
    block_out_channels=(8, 16),
    layers_per_block=1,
    norm_num_groups=4,
    latent_channels=4,
    scaling_factor=0.25)
# With the factor of the real one, 8: not all sizes of pictures fit it.
EIGHTFOLD_VAE = dict(
    VAE,
    block_out_channels=(8, ) * 4,
    down_block_types=('DownEncoderBlock2D', ) * 4,
    up_block_types=('UpDecoderBlock2D', ) * 4)
META = dict(
    classes=tuple('abcde'), palette=[[50 * i, 0, 0] for i in range(5)])
CODEC = dict(num_classes=5, divisions=2, spacing=200, void_color=(100, 100, 100))


# What each process needs of a model: latents that the network sees and returns.
PROCESSES = dict(
    semflow=(dict(type='RectifiedFlow'), (1, 1)),
    symmflow=(dict(type='SymmetricFlow'), (2, 2)),
    bbdm=(dict(type='BrownianBridge'), (1, 1)),
    bbdm_segmentor=(dict(type='BrownianBridge', direction='image_to_mask'),
                    (1, 1)),
    dsm=(dict(type='Diffusion'), (2, 1)))


def network_cfg(latents=(1, 1), channels=12, **kwargs) -> dict:
    """Config of a tiny SD-like UNet for latents of 2 x 2 patches."""
    unet = dict(
        UNET,
        in_channels=latents[0] * channels,
        out_channels=latents[1] * channels)
    return copy.deepcopy(
        dict(type='VelocityUNet', prompt_length=3, unet=unet) | kwargs)


def semflow_cfg(**kwargs) -> dict:
    """Config of a SemFlowModel: tiny SD-like UNet on 2 x 2 patches."""
    return copy.deepcopy(
        dict(
            type='SemFlowModel',
            network=network_cfg(),
            autoencoder=dict(type='PatchAutoencoder', factor=2),
            codec=CODEC) | kwargs)


def process_cfg(name, process=None, **kwargs) -> dict:
    """Arguments of :func:`semflow_cfg` for one of ``PROCESSES``.

    ``process`` holds further arguments of the process.
    """
    of_process, latents = PROCESSES[name]
    return dict(
        process={**of_process, **(process or {})},
        network=network_cfg(latents)) | kwargs


def segmentor_cfg(test_cfg=None, **kwargs) -> dict:
    """Config of a SemFlow segmentor around :func:`semflow_cfg`."""
    return dict(
        type='SemFlow',
        data_preprocessor=dict(type='SemFlowDataPreProcessor'),
        semflow=semflow_cfg(**kwargs),
        test_cfg=test_cfg or dict(num_steps=2))


def train_pipeline(flip=0.5) -> list:
    """The training pipeline of the tests: mmsegmentation's own transforms."""
    return [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations'),
        dict(type='RandomFlip', prob=flip),
        dict(type='PackSegInputs')
    ]


def transforms_pipeline(codec=None, flip=0.5) -> list:
    """The same with pseudo masks, by the transforms of SemFlow."""
    return [
        *train_pipeline(flip)[:-1],
        dict(type='GeneratePseudoMask', codec=codec or CODEC),
        dict(type='PerturbPseudoMask'),
        dict(type='PackSemFlowInputs')
    ]


def training_data(size=(24, 32), codec=None, count=2) -> dict:
    """A batch of the training pipeline, without meaning.

    With a ``codec`` it holds pseudo masks, as those of SemFlow's transforms.
    """
    data = dict(inputs=[], data_samples=[])
    for _ in range(count):
        labels = torch.randint(0, 5, (1, *size))
        item = SegDataSample(metainfo=dict(img_shape=size, ori_shape=size))
        item.gt_sem_seg = PixelData(data=labels)
        if codec is not None:
            of_data = PseudoMaskCodec(**codec)
            item.set_metainfo(dict(codec=of_data.spec))
            item.set_data(
                dict(gt_pseudo_mask=PixelData(data=of_data.encode(labels)[0])))
        data['inputs'].append(
            torch.randint(0, 256, (3, *size), dtype=torch.uint8))
        data['data_samples'].append(item)
    return data


def write_street(root):
    """Write 6 + 4 pairs of 24 x 32 pixels in mmseg's layout, 5 classes."""
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (5, 3), dtype=np.uint8)
    for split, count in dict(train=6, val=4).items():
        for kind in ('img_dir', 'ann_dir'):
            (root / kind / split).mkdir(parents=True)
        for i in range(count):
            labels = rng.integers(0, 5, (3, 4), dtype=np.uint8)
            labels = labels.repeat(8, 0).repeat(8, 1)
            labels[:2, :3] = 255
            image = colors[labels % 5]
            cv2.imwrite(str(root / 'img_dir' / split / f'{i}.jpg'), image)
            cv2.imwrite(str(root / 'ann_dir' / split / f'{i}.png'), labels)
    return root


def street_dataset(root, split='train', **kwargs) -> dict:
    """Config of mmseg's dataset of a split of the ``street`` folder."""
    return dict(
        type='mmseg.BaseSegDataset',
        metainfo=META,
        data_root=str(root),
        data_prefix=dict(
            img_path=f'img_dir/{split}', seg_map_path=f'ann_dir/{split}'),
        **kwargs)


TEST_PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')
]


def runner_cfg(root, work_dir, max_iters=4, **kwargs) -> Config:
    """A whole config: tiny SemFlow on the ``street`` folder."""

    def loader(split, pipeline, **options):
        return dict(
            num_workers=0,
            dataset=street_dataset(root, split, pipeline=pipeline),
            **options)

    cfg = dict(
        default_scope='mmseg',
        work_dir=str(work_dir),
        model=segmentor_cfg(),
        train_dataloader=loader(
            'train',
            train_pipeline(),
            batch_size=2,
            sampler=dict(type='InfiniteSampler', shuffle=True)),
        val_dataloader=loader(
            'val',
            TEST_PIPELINE,
            batch_size=1,
            sampler=dict(type='DefaultSampler', shuffle=False)),
        val_evaluator=dict(type='IoUMetric'),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3)),
        train_cfg=dict(
            type='IterBasedTrainLoop',
            max_iters=max_iters,
            val_interval=max_iters),
        val_cfg=dict(type='ValLoop'),
        test_cfg=dict(type='TestLoop'),
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1),
            checkpoint=dict(
                type='SafeCheckpointHook', by_epoch=False, interval=max_iters),
            visualization=dict(type='SegVisualizationHook')),
        custom_hooks=[dict(type='StopOnInvalidLossHook')],
        vis_backends=[dict(type='LocalVisBackend')],
        visualizer=dict(
            type='SegLocalVisualizer',
            vis_backends=[dict(type='LocalVisBackend')]),
        randomness=dict(seed=0),
        log_level='WARNING')
    cfg['test_dataloader'] = cfg['val_dataloader']
    cfg['test_evaluator'] = cfg['val_evaluator']
    return Config({**copy.deepcopy(cfg), **kwargs})


def listen(runner) -> dict:
    """Collect the metrics of its evaluations, which mmagic only logs."""
    found, call_hook = {}, runner.call_hook

    def call(name, **kwargs):
        if name in ('after_test_epoch', 'after_val_epoch'):
            found.update(kwargs['metrics'])
        return call_hook(name, **kwargs)

    runner.call_hook = call
    return found


def run_test(runner) -> dict:
    """Run the test loop and return its metrics."""
    found = listen(runner)
    runner.test()
    return found


def save_checkpoint(path, seed=1, **kwargs) -> None:
    """Write a checkpoint of an untrained model whose velocities matter."""
    torch.manual_seed(seed)
    semflow = MODELS.build(semflow_cfg(**kwargs))
    # What they read from a folder of Stable Diffusion.
    semflow.network.init_weights()
    semflow.wrappers.init_weights()
    nn.init.normal_(semflow.network.unet.conv_out.weight, std=0.3)
    torch.save(
        dict(
            state_dict={
                f'semflow.{key}': value
                for key, value in semflow.state_dict().items()
            },
            meta=dict(dataset_meta=META)), path)


def save_old_checkpoint(path, name='semflow_options') -> dict:
    """Write one that the first version wrote, and give its model's config.

    Its keys are those of that version, of which the golden files keep some
    weights, see :mod:`golden`.
    """
    state_dict, _ = golden.read(name)
    torch.save(
        dict(
            state_dict={
                f'semflow.{key}': value for key, value in state_dict.items()
            },
            meta=dict(dataset_meta=META)), path)
    return copy.deepcopy(golden.CASES[name][0])


def clashing_names() -> list:
    """List names of ours that mean something else in another registry.

    Where a name of the root is one of a child too, or the other way round,
    the scope of a config decides which is built.
    """

    def is_ours(part):
        return part.__module__.startswith('mmseg_semflow')

    found = []
    for root in vars(mmengine.registry).values():
        if not isinstance(root, mmengine.registry.Registry):
            continue
        for child in root.children.values():
            for name in root.module_dict.keys() & child.module_dict.keys():
                parts = root.module_dict[name], child.module_dict[name]
                if any(map(is_ours, parts)) and parts[0] is not parts[1]:
                    found.append(f'{child.scope}::{child.name} {name}')
    return found


def byte_vocabulary() -> dict:
    """CLIP's vocabulary without merges: bytes, word ends, specials."""
    letters = sorted(ByteLevel.alphabet())
    tokens = [
        *letters, *(letter + '</w>' for letter in letters), '<|startoftext|>',
        '<|endoftext|>'
    ]
    return {token: i for i, token in enumerate(tokens)}


def write_tokenizer(folder) -> None:
    """Write CLIP's tokenizer without merges."""
    folder.mkdir(parents=True)
    end = '<|endoftext|>'
    (folder / 'vocab.json').write_text(json.dumps(byte_vocabulary()))
    (folder / 'merges.txt').write_text('#version: 0.2\n')
    (folder / 'tokenizer_config.json').write_text(
        json.dumps(
            dict(
                tokenizer_class='CLIPTokenizer',
                model_max_length=77,
                bos_token='<|startoftext|>',
                eos_token=end,
                pad_token=end,
                unk_token=end)))


def text_encoder(width=16, words=514, heads=2) -> CLIPTextModel:
    """Build one layer of CLIP's text encoder, random."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=words,
            hidden_size=width,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=heads,
            bos_token_id=words - 2,
            eos_token_id=words - 1))


def write_sd_folder(folder, safetensors=True, unet=UNET, vae=VAE, width=16):
    """Write a tiny UNet, VAE, text encoder and tokenizer, all random."""
    options = dict(safe_serialization=safetensors)
    UNet2DConditionModel(**unet).save_pretrained(folder / 'unet', **options)
    AutoencoderKL(**vae).save_pretrained(folder / 'vae', **options)
    text_encoder(width).save_pretrained(folder / 'text_encoder', **options)
    write_tokenizer(folder / 'tokenizer')
    return folder


def write_deepspeed(weights, path):
    """Write what DeepSpeed 0.12 to 0.16 with ZeRO-2 writes of a model."""
    shapes = OrderedDict((k, v.shape) for k, v in weights.items())
    torch.save(
        dict(
            module=OrderedDict(
                (k, v.to(torch.bfloat16)) for k, v in weights.items()),
            buffer_names=[],
            optimizer=None,
            param_shapes=[shapes],
            frozen_param_shapes=None,
            shared_params={},
            frozen_param_fragments=None,
            lr_scheduler=dict(last_epoch=8, _last_lr=[2e-5]),
            data_sampler=None,
            random_ltd=None,
            sparse_tensor_module_names=set(),
            skipped_steps=0,
            global_steps=8,
            global_samples=2048,
            dp_world_size=8,
            mp_world_size=1,
            ds_config=dict(
                bf16=dict(enabled=True), zero_optimization=dict(stage=2),
                gradient_clipping=1., train_batch_size='auto'),
            ds_version='0.14.2'), path)


# What the training of the paper's authors writes of its UNet, by name.
RELEASED = {
    'face.pt': torch.save,
    'model.safetensors': save_file,
    'mp_rank_00_model_states.pt': write_deepspeed,
    'of_ddp.pt': lambda weights, path: torch.save(
        {f'module.{k}': v for k, v in weights.items()}, path)
}
