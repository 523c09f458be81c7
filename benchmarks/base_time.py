"""Measure what a base's own time is worth at the start of the training.

A small transformer of the kind of Stable Diffusion 3 learns, as a base does, to lead
from noise to the pictures of the toy street: a plain rectified flow, told sigma. From
there SemFlow's flow between pictures and masks is trained, with the base's time as it
is (`kept`: sigma = t, the sign of the velocity the same), with the time turned round
(`turned`: sigma = 1 - t, the sign turned as well) and from nothing (`scratch`), each
with the same pictures, masks, times and rate. Prints the loss on streets that no
training saw, at fixed times, along the training. Example:
    python benchmarks/base_time.py --pretrain 2000 --train 1000
"""

import argparse
import copy
from pathlib import Path
from typing import Callable, Dict, List, Tuple

import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor, nn

from mmseg_semflow.apis.tables import to_markdown
from mmseg_semflow.datasets.toy_street import draw_street
from mmseg_semflow.flow import PseudoMaskCodec
from mmseg_semflow.networks import PatchAutoencoder, VelocityTransformer

ROOT = Path(__file__).resolve().parents[1]
SIZE = (64, 96)
# Where the loss is looked at.
TIMES = (0.05, 0.25, 0.5, 0.75, 0.95)


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--pretrain', type=int, default=400, help='iterations')
    parser.add_argument('--train', type=int, default=200, help='iterations of each')
    parser.add_argument('--streets', type=int, default=200, help='to train on')
    parser.add_argument('--held-out', type=int, default=32, help='to measure on')
    parser.add_argument('--batch-size', type=int, default=8)
    parser.add_argument('--width', type=int, default=64, help='of the transformer')
    parser.add_argument('--layers', type=int, default=4)
    parser.add_argument('--rate', type=float, default=5e-4)
    parser.add_argument('--seed', type=int, default=0)
    return parser.parse_args()


def draw(count: int, seed: int) -> Tuple[Tensor, Tensor]:
    """Draw streets and give the latents of pictures and of masks, (N, 48, h, w)."""
    cfg = Config.fromfile(ROOT / 'configs/_base_/datasets/toy_street.py')
    codec, autoencoder = PseudoMaskCodec(**cfg.codec), PatchAutoencoder(4)
    rng = np.random.default_rng(seed)
    images, labels = zip(*(draw_street(rng, SIZE) for _ in range(count)), strict=True)
    images = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 127.5 - 1
    levels = codec.encode(torch.from_numpy(np.stack(labels)).long())
    # Pictures about as wide as noise, as a base's autoencoder makes them.
    return (2 * autoencoder.encode(images).mean,
            autoencoder.encode(codec.normalize(levels)).mean)


def build(width: int, layers: int) -> VelocityTransformer:
    """Build the small transformer, random."""
    return VelocityTransformer(
        transformer=dict(
            type='SD3Transformer2DModel',
            sample_size=16,
            patch_size=1,
            in_channels=48,
            out_channels=48,
            num_layers=layers,
            attention_head_dim=width // 4,
            num_attention_heads=4,
            joint_attention_dim=width,
            caption_projection_dim=width,
            pooled_projection_dim=width,
            pos_embed_max_size=24),
        prompt_length=1)


class Turned(nn.Module):
    """A base whose time is told from the other end."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, zt: Tensor, t: Tensor) -> Tensor:
        """Predict dz/dt, shape (B, C, h, w)."""
        return -self.network(zt, 1 - t)


def loss_of(network: nn.Module, z0: Tensor, z1: Tensor, t: Tensor) -> Tensor:
    """Compute the loss of the flow from z0 at t = 0 to z1 at t = 1 (Eq. 10)."""
    s = t.view(-1, 1, 1, 1)
    return (network((1 - s) * z0 + s * z1, t) - (z1 - z0)).square().mean()


def train(network: nn.Module, ends: Callable[[Tensor], Tuple[Tensor, Tensor]],
          count: int, args: argparse.Namespace, iterations: int,
          measure: Callable[[int], None] = lambda i: None) -> None:
    """Train with draws that depend on the seed alone.

    Args:
        network (nn.Module): Trained in place.
        ends (Callable): Gives both ends of the paths for indices of streets.
        count (int): Number of streets.
        args (Namespace): Batch size, rate and seed.
        iterations (int): How long.
        measure (Callable): Called before every iteration and at the end. Defaults
            to nothing.
    """
    torch.manual_seed(args.seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=args.rate)
    for i in range(iterations):
        measure(i)
        chosen = torch.randint(count, (args.batch_size, ))
        z0, z1 = ends(chosen)
        loss = loss_of(network, z0, z1, torch.rand(args.batch_size))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    measure(iterations)


def compare(args: argparse.Namespace) -> Dict[str, Dict[int, List[float]]]:
    """Train all of them.

    Returns:
        dict: By name and iteration, the held-out losses at ``TIMES``.
    """
    images, masks = draw(args.streets, args.seed)
    held_out = draw(args.held_out, args.seed + 1)
    torch.manual_seed(args.seed)
    fresh = build(args.width, args.layers)
    base = copy.deepcopy(fresh)
    train(base, lambda i: (images[i], torch.randn_like(images[i])), len(images), args,
          args.pretrain)
    marks = {0, *(args.train * part // 4 for part in (1, 2, 3, 4))}
    found: Dict[str, Dict[int, List[float]]] = {}
    for name, network in dict(
            scratch=fresh, kept=copy.deepcopy(base), turned=Turned(base)).items():
        losses = found[name] = {}

        @torch.no_grad()
        def measure(i: int, network=network, losses=losses) -> None:
            if i in marks:
                losses[i] = [
                    float(loss_of(network, *held_out, torch.full((args.held_out, ), t)))
                    for t in TIMES
                ]

        train(network, lambda i: (images[i], masks[i]), len(images), args, args.train,
              measure)
    return found


def to_rows(found: Dict[str, Dict[int, List[float]]]) -> List[dict]:
    """Lay the losses out by name and iteration, and their mean."""
    return [
        dict(start=name, iteration=i,
             **{f't = {t}': loss for t, loss in zip(TIMES, losses, strict=True)},
             mean=sum(losses) / len(losses))
        for name, by_iteration in found.items()
        for i, losses in by_iteration.items()
    ]


if __name__ == '__main__':
    print(to_markdown(to_rows(compare(parse_args()))))
