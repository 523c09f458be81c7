"""A segmentor that labels pictures it had no part in."""

import copy
from pathlib import Path
from typing import Optional

import torch
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import CheckpointLoader
from mmseg.apis import inference_model, init_model
from torch import Tensor, nn

from mmseg_semflow.arguments import checked
from mmseg_semflow.export.settings import find_test_pipeline
from mmseg_semflow.safe_loading import weights_in


def load_segmentor(config: str, checkpoint: str, device: str) -> nn.Module:
    """Load a segmentor of mmsegmentation, all that its inference uses.

    mmsegmentation's ``init_model`` leaves what a checkpoint lacks as it was drawn, and
    warns.

    Args:
        config (str): Path of its config.
        checkpoint (str): Its checkpoint.
        device (str): Where it computes.

    Returns:
        nn.Module: In eval mode, with ``dataset_meta`` and ``cfg``, whose
        ``test_pipeline`` is how it is tested.

    Raises:
        ValueError: If there is no such config, it does not say how it is tested, or
            the checkpoint lacks weights of it.
    """
    if not Path(config).is_file():
        raise ValueError(f'segmentor must be the path of a config, but got {config!r}')
    # Its parts are looked for in the default scope, which may be mmagic's, and
    # init_model changes that for good.
    with DefaultScope.overwrite_default_scope('mmseg'):
        network = init_model(config, checkpoint, device)
    _load_all(network, config, checkpoint)
    pipeline = find_test_pipeline(network.cfg)
    if pipeline is None:
        raise ValueError(
            f'the segmentor {config} must have a test_dataloader whose dataset has a '
            'pipeline, or test_pipeline, but has neither')
    # Where mmsegmentation looks for it, and changes it.
    network.cfg.test_pipeline = copy.deepcopy(pipeline)
    return network


def _load_all(network: nn.Module, config: str, checkpoint: str) -> None:
    """Load a checkpoint again; raise a ValueError if it lacks a weight."""
    loaded = CheckpointLoader.load_checkpoint(checkpoint, 'cpu')
    try:
        missing = network.load_state_dict(
            weights_in(loaded, checkpoint), strict=False).missing_keys
    except RuntimeError as error:
        raise ValueError(f'{checkpoint} does not fit {config}: {error}') from error
    state = network.state_dict(keep_vars=True)
    # One name of those that share a weight is enough.
    held = {id(value) for name, value in state.items() if name not in missing}
    missing = [
        name for name in missing if not name.startswith('auxiliary_head.')
        and (isinstance(state[name], nn.Parameter) or name.endswith(
            ('running_mean', 'running_var'))) and id(state[name]) not in held
    ]
    if missing:
        raise ValueError(
            f'{checkpoint} is no checkpoint of {config}: it lacks {len(missing)} of '
            f'its weights, such as {missing[0]}')


@MODELS.register_module()
@checked
class SegmentorJudge:
    """Label pictures by a segmentor of mmsegmentation that was trained apart.

    It is read by the first call, takes no random numbers, and is no part of the state
    of what uses it.

    Args:
        segmentor (str): Path of its config.
        checkpoint (str): Its checkpoint.

    Raises:
        ValueError: If there is no such config.
    """

    def __init__(self, segmentor: str, checkpoint: str) -> None:
        if not Path(segmentor).is_file():
            raise ValueError(
                f'segmentor must be the path of a config, but got {segmentor!r}')
        self.segmentor = segmentor
        self.checkpoint = checkpoint
        self.network: Optional[nn.Module] = None

    def __call__(self, pixels: Tensor, num_classes: int) -> Tensor:
        """Label pictures, each by the test pipeline of the segmentor.

        Args:
            pixels (Tensor): RGB, uint8, shape (B, 3, H, W).
            num_classes (int): How many classes it must have.

        Returns:
            Tensor: Labels, int64, shape (B, H, W), on the device of the pixels.

        Raises:
            ValueError: If it has another number of classes, or its checkpoint is of
                another network.
        """
        if self.network is None:
            with torch.random.fork_rng(devices=[]):
                self.network = load_segmentor(
                    self.segmentor, self.checkpoint, str(pixels.device))
        # Of which its inference builds the transforms.
        with DefaultScope.overwrite_default_scope('mmseg'):
            found = len(self.network.dataset_meta['classes'])
            if found != num_classes:
                raise ValueError(
                    f'segmentor {self.segmentor} must have as many classes as the '
                    f'dataset, {num_classes}, but has {found}')
            # BGR, as mmsegmentation reads its files.
            images = pixels.flip(1).permute(0, 2, 3, 1).contiguous().cpu().numpy()
            return torch.cat([
                inference_model(self.network, image).pred_sem_seg.data
                for image in images
            ])
