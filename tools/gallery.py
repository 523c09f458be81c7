"""Show both directions on test images of a config, as one picture.

Image, labels, prediction and several images synthesised for the labels, as many steps
as the config says. Example:
    python tools/gallery.py configs/semflow_camvid_taef2.py \
        work_dirs/semflow_camvid_taef2/iter_3600.pth --images 0 25 50 75 100
"""

import argparse

from _options import add_cfg_options, read_config
from _startup import imports, run


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument(
        '--images', type=int, nargs='+', metavar='INDEX',
        help='numbers of the test images, from 0; default: the first five')
    parser.add_argument(
        '--num-samples', type=int, default=3, help='images per mask; default: 3')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', default='work_dirs/gallery.png')
    parser.add_argument('--device')
    add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    """Run the tool."""
    args = parse_args()
    with imports():
        from mmengine.registry import DATASETS

        from mmseg_semflow.apis import SemFlowInferencer
        from mmseg_semflow.apis.gallery import make_gallery
        from mmseg_semflow.files import write_bytes
        cfg = read_config(args.config, args.cfg_options)
    inferencer = SemFlowInferencer(
        cfg, args.checkpoint, args.device, channel_order='rgb')
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    write_bytes(args.out, make_gallery(
        inferencer, dataset, args.images, args.num_samples, seed=args.seed))
    print(f'wrote {args.out}')


if __name__ == '__main__':
    run(main)
