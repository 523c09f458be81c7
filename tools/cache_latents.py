"""Encode the training set of a config once, to train without the encoder.

Files that are whole are kept, each of some dozens of pictures: the same command
continues after an interruption. See docs/latent_cache.md. Example:
    python tools/cache_latents.py configs/semflow_cityscapes_cached.py
or, shared by 8 GPUs:
    torchrun --nproc_per_node 8 tools/cache_latents.py CONFIG
"""

import argparse

from _options import add_cfg_options, read_config, take_rank
from _startup import imports, run


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config')
    parser.add_argument(
        '--out', help="folder to write to; default: the config's cache")
    parser.add_argument(
        '--num-draws', type=int,
        help='perturbed pseudo masks per view; default: 4, or 1 where the '
        'amplitude is 0')
    parser.add_argument('--device')
    add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    """Run the tool."""
    args = parse_args()
    with imports():
        from mmseg_semflow.apis.latent_cache import cache_latents
        cfg = read_config(args.config, args.cfg_options)
    rank, world_size = take_rank()
    cache = cache_latents(cfg, args.out, args.num_draws, args.device, rank,
                          world_size)
    if rank == 0:
        print(f'\nthe latents are in {cache.folder}')


if __name__ == '__main__':
    run(main, interrupted='the same command continues')
